#include "health/settings.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "health/movement.h"
#include "health/words.h"
#include "semiseg/error.h"
#include "semiseg/method.h"

namespace semiseg {
namespace {

constexpr double kLeastShare = 1e-5;  // of the labels: a class with less is no example

// How ENet's weights compare the rarest labelled class with the most frequent one.
std::string enet_reason(const std::vector<double>& reference, const HealthContext& context) {
  std::optional<size_t> rare, frequent;
  for (size_t c = 0; c < reference.size(); ++c) {
    if (reference[c] < kLeastShare) continue;
    if (!rare || reference[c] < reference[*rare]) rare = c;
    if (!frequent || reference[c] > reference[*frequent]) frequent = c;
  }
  if (!rare || *rare == *frequent)
    return "the weight 1 / ln(1.02 + p) is 2.9 for a class with 40 % of the labelled pixels and 48 for one with .1 %";
  const double ratio = std::log(1.02 + reference[*frequent]) / std::log(1.02 + reference[*rare]);
  std::string text = str("a pixel of ", name_of(context, *rare), " (", percent(reference[*rare]),
                         " of the labels) then counts ", format("%.0f", ratio), " times as much in the loss as one of ",
                         name_of(context, *frequent), " (", percent(reference[*frequent]), ")");
  constexpr size_t kMostWeights = 40;
  if (context.config || reference.size() > kMostWeights) return text;
  // For those who train with another program.
  text += "; by these shares, in PyTorch, CrossEntropyLoss(weight=torch.tensor([";
  for (size_t c = 0; c < reference.size(); ++c)
    text += (c == 0 ? "" : ", ") + format("%.1f", 1 / std::log(1.02 + reference[c]));
  return text + "]))";
}

}  // namespace

std::string value_now(const HealthContext& context, const std::string& key) {
  return context.config ? value_text(*context.config, key) : "";
}

bool may_set(const HealthContext& context, const std::string& key) {
  return !context.config || method_reads(context.config->semi.method, key);
}

Setting setting(const HealthContext& context, const std::string& key, const std::string& value, const std::string& reason) {
  return {key + "=" + value, value_now(context, key), reason};
}

std::string class_adaptive(const std::vector<EpochRecord>& history, const HealthContext& context) {
  constexpr int64_t kLongRun = 20000;  // updates
  const auto* optim = context.config ? &context.config->optim : nullptr;
  const EpochRecord& now = history.back();
  int64_t updates = 0;
  if (optim && optim->steps)
    updates = *optim->steps;
  else if (optim && optim->epochs && now.epoch > 0)
    updates = *optim->epochs * now.step / now.epoch;
  return updates > 0 && updates < kLongRun ? "'{kind: class_adaptive, momentum: 0.99}'" : "'{kind: class_adaptive}'";
}

std::vector<Setting> settings_against_starving(const std::vector<EpochRecord>& history, const std::vector<size_t>& starving,
                                               const HealthContext& context) {
  const Config* config = context.config;
  const auto reference = reference_share(history, context);
  const auto& pseudo = history.back().pseudo;
  bool starve_in_pseudo = false;
  double precision = 0;
  int64_t known = 0;
  if (pseudo && pseudo->accepted > 0)
    for (const size_t c : starving) {
      starve_in_pseudo = starve_in_pseudo || share_or_zero(pseudo->share, c) < share_or_zero(reference, c) / 2;
      if (c < pseudo->precision.size() && pseudo->precision[c]) precision += *pseudo->precision[c], ++known;
    }

  std::vector<Setting> general, semi;
  const bool weighted = config && config->loss.class_weights != "none";
  if (!weighted) general.push_back(setting(context, "loss.class_weights", "enet", enet_reason(reference, context)));
  if (!config || config->sampler.rare_class_temperature == 0)
    general.push_back(setting(context, "sampler.rare_class_temperature", "0.01",
                              "labelled crops that hold rare classes are drawn more often"));

  const std::string if_semi = config ? "" : "if unlabelled images are learned from: ";
  const bool takes_all = config && config->semi.threshold.kind == "fixed" && config->semi.threshold.value < 0.5;
  if (takes_all && may_set(context, "semi.threshold"))
    semi.push_back(setting(context, "semi.threshold", "0.95",
                           "at present every pseudo-label counts, sure or not, so that the network learns its own mistakes"));
  if (weighted && may_set(context, "semi.class_weights") && !config->semi.class_weights)
    semi.push_back({"semi.class_weights=true semi.undo_class_bias=true", value_now(context, "semi.class_weights"),
                    "the loss on pseudo-labels then weighs classes as the other one does, and the labels themselves are made "
                    "without what the weights add to rare classes"});
  if (may_set(context, "semi.threshold") && !takes_all) {
    if (!config || (config->semi.threshold.kind == "fixed" && config->semi.method != "self_training"))
      semi.push_back(setting(context, "semi.threshold", class_adaptive(history, context),
                             if_semi + "each class gets its own threshold, a lower one where the network is less sure"));
  }
  if (may_set(context, "semi.align_distribution") && !(config && config->semi.align_distribution))
    semi.push_back(setting(context, "semi.align_distribution", "true",
                           if_semi + "pseudo-labels are drawn towards the labelled pixels' shares"));
  if (config && may_set(context, "semi.weight")) {
    if (config->semi.weight > 1)
      semi.push_back(setting(context, "semi.weight", "1", "pseudo-labels then do not outweigh the labels"));
    else if (known > 0 && precision / static_cast<double>(known) < 0.5)
      semi.push_back(
          setting(context, "semi.weight", number(config->semi.weight / 2),
                  str("pseudo-labels of these classes are right in only ", percent(precision / static_cast<double>(known)))));
  }

  const bool semi_first = starve_in_pseudo || (takes_all && may_set(context, "semi.threshold"));
  std::vector<Setting> all = semi_first ? semi : general;
  const auto& rest = semi_first ? general : semi;
  if (semi_first && !rest.empty() && all.size() >= kMostSettings) all.resize(kMostSettings - 1);
  all.insert(all.end(), rest.begin(), rest.end());
  if (all.empty() && config && config->loss.logit_adjustment == 0)
    all.push_back(setting(context, "loss.logit_adjustment", "1", "a rare class has to win against its rarity in training"));
  if (all.size() > kMostSettings) all.resize(kMostSettings);
  return all;
}

namespace {

// Against labels and steps that lead the network astray. `smaller_steps`: the learning rate, too.
std::vector<Setting> settings_against_going_astray(bool smaller_steps, const HealthContext& context) {
  const Config* config = context.config;
  std::vector<Setting> settings;
  if (smaller_steps)
    settings.push_back(config ? setting(context, "optim.lr", number(config->optim.lr / 3), "smaller steps")
                              : Setting{"optim.lr", "", "a third of the present one"});
  if (config && may_set(context, "semi.weight") && config->semi.weight > 0)
    settings.push_back(
        setting(context, "semi.weight", number(config->semi.weight / 2), "pseudo-labels, which may be wrong, then weigh less"));
  constexpr int64_t kLonger = 5;  // epochs
  if (config && may_set(context, "semi.burn_in_epochs") &&
      config->optim.epochs.value_or(std::numeric_limits<int64_t>::max()) > config->semi.burn_in_epochs + kLonger)
    settings.push_back(setting(context, "semi.burn_in_epochs", str(config->semi.burn_in_epochs + kLonger),
                               "labels alone teach until the pseudo-labels are worth learning"));
  return settings;
}

}  // namespace

std::vector<Setting> settings_against_decline(bool learns, const EpochRecord& best, const HealthContext& context) {
  const Config* config = context.config;
  std::vector<Setting> settings = settings_against_going_astray(/*smaller_steps=*/!learns, context);
  if (!learns) return settings;
  const std::string when = time_of(best, context);
  if (config && config->eval.patience == 0)
    settings.push_back(
        setting(context, "eval.patience", "10",
                "ends a run whose scores no longer rise; checkpoints/best.safetensors holds the weights of " + when));
  else if (!config)
    settings.push_back(
        {"eval.patience", "", "keep the weights of the best epoch, " + when + ", and end the training soon after it"});
  if (config && config->optim.weight_decay < 1e-3)
    settings.push_back(setting(context, "optim.weight_decay", number(10 * std::max(config->optim.weight_decay, 1e-5)),
                               "weights then cannot grow to fit single images"));
  return settings;
}

std::vector<Setting> settings_against_overcorrection(const HealthContext& context) {
  const Config* config = context.config;
  if (!config) return {{"loss.class_weights", "", "weaker weights, such as enet, or none, wherever rare classes are favoured"}};
  std::vector<Setting> settings;
  const auto& loss = config->loss;
  const bool biased = loss.class_weights != "none" || loss.logit_adjustment > 0;
  if (biased && !config->semi.undo_class_bias && may_set(context, "semi.undo_class_bias"))
    settings.push_back(setting(context, "semi.undo_class_bias", "true",
                               "pseudo-labels are then made without what the loss adds to rare classes"));
  if (loss.class_weights != "none")
    settings.push_back(loss.class_weights == "enet"
                           ? setting(context, "loss.class_weights", "none", "enet is the mildest of them")
                           : setting(context, "loss.class_weights", "enet", "the mildest of the weights"));
  if (loss.logit_adjustment > 0)
    settings.push_back(setting(context, "loss.logit_adjustment", number(loss.logit_adjustment / 2), "a smaller margin"));
  if (config->sampler.rare_class_temperature > 0)
    settings.push_back(setting(context, "sampler.rare_class_temperature", number(5 * config->sampler.rare_class_temperature),
                               "the higher, the nearer to crops drawn at random"));
  const auto& threshold = config->semi.threshold;
  if (settings.empty() && may_set(context, "semi.threshold") && threshold.kind == "fixed" && threshold.value < 0.98)
    settings.push_back(
        setting(context, "semi.threshold", threshold.value < 0.95 ? "0.95" : "0.98", "surer pseudo-labels alone"));
  return settings.empty() ? settings_against_going_astray(/*smaller_steps=*/true, context) : settings;
}

std::string advice(const std::vector<Setting>& settings) {
  std::string text;
  for (size_t i = 0; i < settings.size(); ++i)
    text += (i == 0                     ? "; set "
             : i + 1 == settings.size() ? " or "
                                        : ", ") +
            settings[i].assignment + (settings[i].now.empty() ? "" : " (now " + settings[i].now + ")");
  return text;
}

}  // namespace semiseg
