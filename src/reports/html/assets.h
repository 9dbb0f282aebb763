// The files of this folder that become part of the pages; embed.cmake turns them into strings.
#pragma once

#include <string_view>

namespace semiseg::assets {

extern const std::string_view kPageHtml, kReportCss, kChartsJs, kReportJs, kCompareJs;

}  // namespace semiseg::assets
