#include "run_status.h"

#include <ctime>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

namespace semiseg {
namespace {

using Json = nlohmann::json;

template <class T>
std::optional<T> value_in(const Json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number()) return std::nullopt;
  return found->get<T>();
}

std::string text_in(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : "";
}

std::optional<int64_t> time_in(const Json& json, const char* key) {
  std::tm parts{};
  std::istringstream text(text_in(json, key));
  text >> std::get_time(&parts, "%Y-%m-%dT%H:%M:%SZ");
  if (text.fail()) return std::nullopt;
  return ::timegm(&parts);
}

}  // namespace

std::optional<RunStatus> parse_status(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || text_in(json, "state").empty()) return std::nullopt;
  RunStatus status;
  status.state = text_in(json, "state");
  status.phase = text_in(json, "phase");
  status.message = text_in(json, "message");
  status.host = text_in(json, "host");
  status.epoch = value_in<int64_t>(json, "epoch").value_or(0);
  status.step = value_in<int64_t>(json, "step").value_or(0);
  status.total_steps = value_in<int64_t>(json, "total_steps").value_or(0);
  status.total_epochs = value_in<int64_t>(json, "total_epochs");
  status.pid = value_in<int64_t>(json, "pid").value_or(0);
  status.seconds_left = value_in<double>(json, "seconds_left");
  status.images_per_s = value_in<double>(json, "images_per_s");
  status.data_wait = value_in<double>(json, "data_wait");
  status.lr = value_in<double>(json, "lr");
  status.loss = value_in<double>(json, "loss");
  status.loss_supervised = value_in<double>(json, "loss_supervised");
  status.loss_unsupervised = value_in<double>(json, "loss_unsupervised");
  status.active = time_in(json, "active");
  status.updated = time_in(json, "updated");
  if (const auto evaluated = json.find("evaluated"); evaluated != json.end() && evaluated->is_object()) {
    status.images = value_in<int64_t>(*evaluated, "images").value_or(0);
    status.of = value_in<int64_t>(*evaluated, "of").value_or(0);
  }
  return status;
}

}  // namespace semiseg
