#include "ops/paste_pairs.h"

#include <ATen/ATen.h>

namespace semiseg::ops {

std::vector<PastePair> paste_pairs(const Tensor& mask_BHW, const std::vector<Tensor>& sources,
                                   const std::vector<Tensor>& targets, std::vector<Tensor>* pasted) {
  std::vector<PastePair> pairs;
  for (size_t i = 0; i < targets.size(); ++i) {
    pasted->emplace_back();
    if (!sources[i].defined() || !targets[i].defined()) continue;
    const auto format = targets[i].suggest_memory_format();
    const int64_t channels = targets[i].dim() == 4 ? targets[i].size(1) : 1;
    const bool interleaved = format == at::MemoryFormat::ChannelsLast;
    TORCH_CHECK(sources[i].sizes() == targets[i].sizes() && sources[i].scalar_type() == targets[i].scalar_type(),
                "what is pasted has another shape or type than what it is pasted over");
    TORCH_CHECK(targets[i].numel() == mask_BHW.numel() * channels, "what is pasted has another size than the mask");
    pasted->back() = at::empty_like(targets[i], format);
    pairs.push_back({sources[i].contiguous(format), targets[i].contiguous(format), pasted->back(), interleaved ? 1 : channels,
                     targets[i].element_size() * (interleaved ? channels : 1)});
  }
  return pairs;
}

}  // namespace semiseg::ops
