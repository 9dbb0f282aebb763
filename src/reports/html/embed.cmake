# Writes OUTPUT, which defines the strings of assets.h from the files beside this script.
set(definitions "#include \"reports/html/assets.h\"\n\nnamespace semiseg::assets {\n\n")
foreach(asset "kPageHtml;page.html" "kReportCss;report.css" "kChartsJs;charts.js" "kReportJs;report.js" "kCompareJs;compare.js")
  list(GET asset 0 name)
  list(GET asset 1 file)
  file(READ "${CMAKE_CURRENT_LIST_DIR}/${file}" text)
  string(APPEND definitions "const std::string_view ${name} = R\"asset(${text})asset\";\n")
endforeach()
file(WRITE "${OUTPUT}" "${definitions}\n}  // namespace semiseg::assets\n")
