// Named factories: a backbone, decoder, method or data set adds itself in its own .cpp:
//   const bool kRegistered = methods().add("fixmatch", [](...) { return std::make_shared<FixMatch>(...); });
// The objects must be linked as a CMake OBJECT library: a static library drops objects that nobody names.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "semiseg/error.h"

namespace semiseg {

template <class Signature>
class Registry {
 public:
  using Factory = std::function<Signature>;

  // kind: how messages call an entry, such as "method".
  explicit Registry(std::string kind) : kind_(std::move(kind)) {}

  bool add(const std::string& name, Factory factory) {
    if (!factories_.emplace(name, std::move(factory)).second)
      throw std::logic_error(kind_ + " \"" + name + "\" is registered twice");
    return true;
  }

  bool contains(const std::string& name) const { return factories_.count(name) != 0; }

  // Throws Error(kConfig) that lists what is registered.
  const Factory& at(const std::string& name) const {
    const auto it = factories_.find(name);
    if (it == factories_.end()) {
      std::string known;
      for (const auto& [key, unused] : factories_) known += (known.empty() ? "" : ", ") + key;
      throw Error(ErrorKind::kConfig, "unknown " + kind_ + " \"" + name + "\"", "", "known: " + known);
    }
    return it->second;
  }

  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& [key, unused] : factories_) result.push_back(key);
    return result;
  }

 private:
  std::string kind_;
  std::map<std::string, Factory> factories_;
};

}  // namespace semiseg
