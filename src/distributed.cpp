#include "semiseg/distributed.h"

#include <ATen/ATen.h>
#ifdef SEMISEG_PROCESS_GROUPS
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef SEMISEG_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif
#endif

#include <chrono>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <thread>

#include "memory.h"
#include "parse_number.h"
#include "semiseg/error.h"
#include "semiseg/random.h"

namespace semiseg {
namespace {

struct Ranks {
  int64_t count = 1, rank = 0, local = 0;
};
Ranks ranks;  // of this process, as the ProcessGroup that lives has read them

std::string where_of_this_process() { return str("process ", ranks.rank, " of ", ranks.count); }

std::optional<std::string> environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? std::optional<std::string>(value) : std::nullopt;
}

// Of the environment. Throws Error(kConfig) where it is not in [low, high], or not there and without a default.
int64_t environment_number(const char* name, int64_t low, int64_t high, std::optional<int64_t> otherwise = std::nullopt) {
  const auto text = environment(name);
  if (!text && otherwise) return *otherwise;
  const auto number = text ? parse_number<int64_t>(*text) : std::nullopt;
  if (!number || *number < low || *number > high)
    throw Error(
        ErrorKind::kConfig,
        text ? str("\"", *text, "\" is no whole number from ", low, " to ", high) : std::string("is not set"),
        str("environment variable ", name),
        "torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; so does `semiseg train --processes N`");
  return *number;
}

#ifdef SEMISEG_PROCESS_GROUPS

struct Met {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::Backend> host;    // for tensors of the CPU
  c10::intrusive_ptr<c10d::Backend> device;  // for those of a GPU; empty: they go through the host
};
std::unique_ptr<Met> met;

// Gloo's message without the place in its sources and its advice.
std::string reason(std::string what) {
  if (const size_t place = what.find("] "); what.starts_with('[') && place != std::string::npos) what.erase(0, place + 2);
  return what.substr(0, std::min(what.find('\n'), what.find(". This is typically")));
}

// What c10d throws is a peer's failure: our own calls are alike in all processes.
template <class Work>
auto or_peer_error(const Work& work) {
  try {
    return work();
  } catch (const std::exception& e) {
    if (is_out_of_memory(e)) throw;
    throw Error(ErrorKind::kPeer,
                "a process that trains with this one has ended or cannot be reached (" + reason(e.what()) + ")",
                where_of_this_process(), "its own message says why; afterwards go on with `semiseg train --resume RUN`");
  }
}

void all_reduce(std::vector<Tensor>& tensors, c10d::ReduceOp::RedOpType operation) {
  const auto through = [&](c10d::Backend& backend, std::vector<Tensor>& which) {
    if (which.size() == 1) {
      c10d::AllreduceOptions options;
      options.reduceOp = operation;
      backend.allreduce(which, options)->wait();
    } else {
      c10d::AllreduceCoalescedOptions options;
      options.reduceOp = operation;
      backend.allreduce_coalesced(which, options)->wait();
    }
  };
  or_peer_error([&] {
    if (tensors[0].is_cpu()) return through(*met->host, tensors);
    if (met->device) return through(*met->device, tensors);
    std::vector<Tensor> on_host;
    for (const Tensor& tensor : tensors) on_host.push_back(tensor.cpu());
    through(*met->host, on_host);
    for (size_t i = 0; i < tensors.size(); ++i) tensors[i].copy_(on_host[i]);
  });
}

// The store of the first process; empty where `stop` said so before. c10d heeds no signal while it looks for one that is not
// there, so it looks for a few seconds at a time.
c10::intrusive_ptr<c10d::TCPStore> find_store(const std::string& master, c10d::TCPStoreOptions options,
                                              const std::function<bool()>& stop, int64_t patience_s) {
  constexpr auto kAtATime = std::chrono::seconds(2);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(patience_s);
  options.timeout = kAtATime;
  return or_peer_error([&]() -> c10::intrusive_ptr<c10d::TCPStore> {
    for (;;) {
      try {
        auto store = c10::make_intrusive<c10d::TCPStore>(master, options);
        store->setTimeout(std::chrono::seconds(patience_s));
        return store;
      } catch (const std::exception&) {
        if (stop()) return {};
        if (options.isServer || std::chrono::steady_clock::now() > deadline) throw;
      }
    }
  });
}

// Until every process has been here; false where `stop` said so before. One that ended before it came would be waited for
// by Gloo as long as by one that computes.
bool wait_until_all_came(c10d::Store& store, const std::function<bool()>& stop, int64_t patience_s) {
  const auto key = [](int64_t rank) { return str("came/", rank); };
  or_peer_error([&] { store.set(key(ranks.rank), std::vector<uint8_t>{1}); });
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(patience_s);
  for (int64_t rank = 0; rank < ranks.count; ++rank) {
    while (!or_peer_error([&] { return store.check({key(rank)}); })) {
      if (stop()) return false;
      if (std::chrono::steady_clock::now() > deadline)
        throw Error(ErrorKind::kPeer, str("process ", rank, " did not come within ", patience_s, " s"), where_of_this_process(),
                    "its own message says why; start all of them again");
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  return true;
}

#endif

}  // namespace

int64_t process_count() { return ranks.count; }
int64_t process_rank() { return ranks.rank; }
int64_t local_rank() { return ranks.local; }

ProcessGroup::ProcessGroup() {
  constexpr int64_t kMost = 1 << 20;
  const int64_t count = environment_number("WORLD_SIZE", 1, kMost, 1);
  if (count == 1) return;
#ifndef SEMISEG_PROCESS_GROUPS
  throw Error(ErrorKind::kConfig, "this build trains in one process alone", str("environment variable WORLD_SIZE: ", count),
              "install Gloo's headers (Debian: libgloo-dev) and build again");
#endif
  const int64_t rank = environment_number("RANK", 0, count - 1);
  ranks = {count, rank, environment_number("LOCAL_RANK", 0, count - 1, rank)};
}

ProcessGroup::~ProcessGroup() {
#ifdef SEMISEG_PROCESS_GROUPS
  if (met && met->device) {
    try {
      // After a failure its operations may wait for a process that is no more.
      std::uncaught_exceptions() > 0 ? met->device->abort() : met->device->shutdown();
    } catch (const std::exception&) {
      // What has been computed is saved; nothing is left to do with the group.
    }
  }
  met.reset();
#endif
  ranks = {};
}

bool ProcessGroup::meet([[maybe_unused]] const std::string& backend, [[maybe_unused]] torch::Device device,
                        [[maybe_unused]] const std::function<bool()>& stop, [[maybe_unused]] int64_t patience_s) {
  if (ranks.count == 1) return true;
#ifdef SEMISEG_PROCESS_GROUPS
  if (backend == "nccl" && !device.is_cuda())
    throw Error(ErrorKind::kConfig, "NCCL works between GPUs, and this process computes on the CPU",
                "distributed.backend: nccl", "take gloo or auto");
#ifndef SEMISEG_NCCL
  if (backend == "nccl")
    throw Error(ErrorKind::kConfig, "this build has no NCCL", "distributed.backend: nccl",
                "take gloo or auto, or build with CUDA");
#endif
  const auto master = environment("MASTER_ADDR");
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(environment_number("MASTER_PORT", 1, 65535));
  // torchrun's agent keeps the store where it says so.
  options.isServer = ranks.rank == 0 && environment("TORCHELASTIC_USE_AGENT_STORE") != "True";
  options.waitWorkers = false;
  const auto found = find_store(master.value_or("127.0.0.1"), options, stop, patience_s);
  if (!found) return false;
  met = std::make_unique<Met>();
  // The agent's store outlives a start that failed.
  met->store =
      c10::make_intrusive<c10d::PrefixStore>("semiseg/" + environment("TORCHELASTIC_RESTART_COUNT").value_or("0"), found);
  if (!wait_until_all_came(*met->store, stop, patience_s)) return false;
  or_peer_error([&] {
    const auto rank = static_cast<int>(ranks.rank), count = static_cast<int>(ranks.count);
    // As long as the others may wait for one that reads all labels, or writes a report.
    const auto gloo = c10d::ProcessGroupGloo::Options::create(std::chrono::hours(2));
    const auto interface = environment("GLOO_SOCKET_IFNAME");  // as PyTorch's Python reads it
    gloo->devices.push_back(interface ? c10d::ProcessGroupGloo::createDeviceForInterface(*interface)
                                      : c10d::ProcessGroupGloo::createDefaultDevice());
    met->host = c10::make_intrusive<c10d::ProcessGroupGloo>(met->store, rank, count, gloo);
#ifdef SEMISEG_NCCL
    if (device.is_cuda() && backend != "gloo")
      met->device =
          c10::make_intrusive<c10d::ProcessGroupNCCL>(c10::make_intrusive<c10d::PrefixStore>("nccl", met->store), rank, count);
#endif
  });
  wait_for_processes();
#endif
  return true;
}

void add_over_processes([[maybe_unused]] std::vector<Tensor> tensors) {
#ifdef SEMISEG_PROCESS_GROUPS
  if (ranks.count > 1 && !tensors.empty()) all_reduce(tensors, c10d::ReduceOp::SUM);
#endif
}

void average_over_processes(std::vector<Tensor> tensors) {
  if (ranks.count == 1 || tensors.empty()) return;
  at::NoGradGuard no_grad;
  add_over_processes(tensors);
  at::_foreach_mul_(tensors, 1.0 / static_cast<double>(ranks.count));
}

Tensor sum_over_processes(const Tensor& tensor) {
  if (ranks.count == 1) return tensor;
  Tensor sum = tensor.detach().clone();
  add_over_processes({sum});
  return sum;
}

Tensor mean_over_processes(const Tensor& tensor) {
  if (ranks.count == 1) return tensor;
  return sum_over_processes(tensor).div_(ranks.count);
}

int64_t largest_over_processes(int64_t value) {
#ifdef SEMISEG_PROCESS_GROUPS
  if (ranks.count > 1) {
    std::vector<Tensor> values{at::tensor({value}, at::kLong)};
    all_reduce(values, c10d::ReduceOp::MAX);
    return values[0].item<int64_t>();
  }
#endif
  return value;
}

std::vector<size_t> differing_over_processes([[maybe_unused]] const std::vector<std::string>& texts) {
  std::vector<size_t> differing;
#ifdef SEMISEG_PROCESS_GROUPS
  if (ranks.count == 1 || texts.empty()) return differing;
  // The largest of h and of ~h over the processes are each other's complements where all h are one.
  std::vector<int64_t> hashes;
  for (const std::string& text : texts) hashes.push_back(static_cast<int64_t>(hash_name(text)));
  const auto hash_N = at::tensor(hashes, at::kLong);
  std::vector<Tensor> largest_2N{at::stack({hash_N, hash_N.bitwise_not()})};
  all_reduce(largest_2N, c10d::ReduceOp::MAX);
  const auto differs_N = largest_2N[0][0].ne(largest_2N[0][1].bitwise_not());
  for (size_t i = 0; i < texts.size(); ++i)
    if (differs_N[static_cast<int64_t>(i)].item<bool>()) differing.push_back(i);
#endif
  return differing;
}

void wait_for_processes() { largest_over_processes(0); }

void first_then_others(const std::function<void()>& work) {
  if (ranks.local == 0) work();
  wait_for_processes();
  if (ranks.local != 0) work();
}

}  // namespace semiseg
