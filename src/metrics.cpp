#include "semiseg/metrics.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ops/plain.h"
#include "semiseg/distributed.h"
#include "semiseg/error.h"

namespace semiseg {
namespace {

using Json = nlohmann::ordered_json;

double mean_of(const std::vector<MaybeFraction>& values) {
  double sum = 0;
  int64_t count = 0;
  for (const auto& value : values)
    if (value) sum += *value, ++count;
  return count ? sum / static_cast<double>(count) : 0;
}

Json json_of(const std::vector<MaybeFraction>& values) {
  Json array = Json::array();
  for (const auto& value : values) array.push_back(value ? Json(*value) : Json(nullptr));
  return array;
}

std::vector<MaybeFraction> fractions_of(const Json& array) {
  std::vector<MaybeFraction> values;
  for (const auto& value : array) values.push_back(value.is_null() ? MaybeFraction() : MaybeFraction(value.get<double>()));
  return values;
}

Json json_of(const Scores& s) {
  return {{"miou", s.miou},
          {"mean_class_accuracy", s.mean_class_accuracy},
          {"pixel_accuracy", s.pixel_accuracy},
          {"iou", json_of(s.iou)},
          {"class_accuracy", json_of(s.class_accuracy)},
          {"label_share", s.label_share},
          {"prediction_share", s.prediction_share},
          {"confusion", s.confusion}};
}

Scores scores_from(const Json& j) {
  Scores s;
  s.miou = j.at("miou");
  s.mean_class_accuracy = j.at("mean_class_accuracy");
  s.pixel_accuracy = j.at("pixel_accuracy");
  s.iou = fractions_of(j.at("iou"));
  s.class_accuracy = fractions_of(j.at("class_accuracy"));
  s.label_share = j.at("label_share").get<std::vector<double>>();
  s.prediction_share = j.at("prediction_share").get<std::vector<double>>();
  s.confusion = j.value("confusion", std::vector<std::vector<int64_t>>{});
  const auto fits = [K = s.iou.size()](const auto& values) { return values.size() == K; };
  if (!fits(s.class_accuracy) || !fits(s.label_share) || !fits(s.prediction_share) ||
      (!s.confusion.empty() && !(fits(s.confusion) && std::all_of(s.confusion.begin(), s.confusion.end(), fits))))
    throw Error(ErrorKind::kCheckpoint, "the scores of an epoch are not all of one number of classes");
  return s;
}

}  // namespace

ConfusionMatrix::ConfusionMatrix(int64_t num_classes, torch::Device device)
    : num_classes_(num_classes),
      counts_KK_(at::zeros({num_classes, num_classes}, at::TensorOptions(at::kLong).device(device))) {}

void ConfusionMatrix::add(const Tensor& prediction, const Tensor& label) {
  ops::plain::count_confusion(prediction, label, counts_KK_);
}

Tensor ConfusionMatrix::add_logits(const Tensor& logits_BKhw, const Tensor& label_BHW, const Upsampling& to,
                                   bool want_prediction) {
  return upsample_confusion(logits_BKhw, label_BHW.to(counts_KK_.device()), to, counts_KK_, want_prediction);
}

void ConfusionMatrix::reset() { counts_KK_.zero_(); }

void ConfusionMatrix::add_over_processes() { semiseg::add_over_processes({counts_KK_}); }

Scores ConfusionMatrix::scores() const { return scores_of(counts_KK_); }

Scores scores_of(const Tensor& counts_KK) {
  const auto host_KK = counts_KK.to(at::kCPU).contiguous();
  const auto counts = host_KK.accessor<int64_t, 2>();
  const int64_t K = host_KK.size(0);
  std::vector<int64_t> labelled(K, 0), predicted(K, 0);
  int64_t total = 0, correct = 0;
  for (int64_t label = 0; label < K; ++label) {
    for (int64_t prediction = 0; prediction < K; ++prediction) {
      labelled[label] += counts[label][prediction];
      predicted[prediction] += counts[label][prediction];
      total += counts[label][prediction];
    }
    correct += counts[label][label];
  }
  const auto share = [](int64_t part, int64_t whole) { return static_cast<double>(part) / static_cast<double>(whole); };
  Scores s;
  for (int64_t c = 0; c < K; ++c) {
    const int64_t hit = counts[c][c], united = labelled[c] + predicted[c] - hit;
    s.iou.push_back(united ? MaybeFraction(share(hit, united)) : std::nullopt);
    s.class_accuracy.push_back(labelled[c] ? MaybeFraction(share(hit, labelled[c])) : std::nullopt);
    s.label_share.push_back(total ? share(labelled[c], total) : 0);
    s.prediction_share.push_back(total ? share(predicted[c], total) : 0);
  }
  for (int64_t label = 0; label < K; ++label) s.confusion.emplace_back(counts[label].data(), counts[label].data() + K);
  s.miou = mean_of(s.iou);
  s.mean_class_accuracy = mean_of(s.class_accuracy);
  s.pixel_accuracy = total ? share(correct, total) : 0;
  return s;
}

const EpochRecord* best_of(const std::vector<EpochRecord>& history) {
  const EpochRecord* best = nullptr;
  for (const EpochRecord& record : history)
    if (record.val && (best == nullptr || record.val->miou > best->val->miou)) best = &record;
  return best;
}

std::vector<size_t> classes_by_rarity(const Scores& scores) {
  std::vector<size_t> classes;
  for (size_t c = 0; c < scores.label_share.size(); ++c)
    if (scores.label_share[c] > 0) classes.push_back(c);
  std::stable_sort(classes.begin(), classes.end(),
                   [&](size_t a, size_t b) { return scores.label_share[a] < scores.label_share[b]; });
  return classes;
}

std::string to_json(const Scores& scores) { return json_of(scores).dump(); }

std::string to_json(const EpochRecord& r) {
  Json train = {{"loss", r.loss},
                {"loss_supervised", r.loss_supervised},
                {"loss_unsupervised", r.loss_unsupervised ? Json(*r.loss_unsupervised) : Json(nullptr)}};
  Json pseudo = nullptr;
  if (r.pseudo)
    pseudo = {{"accepted", r.pseudo->accepted},
              {"share", r.pseudo->share},
              {"accepted_by_class", json_of(r.pseudo->accepted_by_class)},
              {"agreement", r.pseudo->agreement ? Json(*r.pseudo->agreement) : Json(nullptr)},
              {"agreement_by_class", json_of(r.pseudo->agreement_by_class)},
              {"precision", json_of(r.pseudo->precision)},
              {"recall", json_of(r.pseudo->recall)}};
  Json alarms = Json::array();
  for (const Alarm& alarm : r.alarms)
    alarms.push_back({{"kind", alarm.kind}, {"message", alarm.message}, {"classes", alarm.classes}});
  return Json{{"epoch", r.epoch},
              {"step", r.step},
              {"seconds", r.seconds},
              {"lr", r.lr},
              {"images_per_s", r.images_per_s},
              {"data_wait", r.data_wait},
              {"peak_memory_mb", r.peak_memory_mb},
              {"train", train},
              {"val", r.val ? json_of(*r.val) : Json(nullptr)},
              {"pseudo", pseudo},
              {"alarms", alarms}}
      .dump();
}

EpochRecord epoch_from_json(const std::string& line) {
  try {
    const Json j = Json::parse(line);
    EpochRecord r;
    r.epoch = j.at("epoch");
    r.step = j.at("step");
    r.seconds = j.at("seconds");
    r.lr = j.at("lr");
    r.images_per_s = j.at("images_per_s");
    r.data_wait = j.at("data_wait");
    r.peak_memory_mb = j.at("peak_memory_mb");
    const Json& train = j.at("train");
    r.loss = train.at("loss");
    r.loss_supervised = train.at("loss_supervised");
    if (!train.at("loss_unsupervised").is_null()) r.loss_unsupervised = train.at("loss_unsupervised").get<double>();
    if (!j.at("val").is_null()) r.val = scores_from(j.at("val"));
    if (const Json& pseudo = j.at("pseudo"); !pseudo.is_null()) {
      PseudoScores p;
      p.accepted = pseudo.at("accepted");
      p.share = pseudo.at("share").get<std::vector<double>>();
      p.accepted_by_class = fractions_of(pseudo.at("accepted_by_class"));
      if (!pseudo.at("agreement").is_null()) p.agreement = pseudo.at("agreement").get<double>();
      p.agreement_by_class = fractions_of(pseudo.value("agreement_by_class", Json::array()));
      p.precision = fractions_of(pseudo.value("precision", Json::array()));
      p.recall = fractions_of(pseudo.value("recall", Json::array()));
      r.pseudo = p;
    }
    for (const Json& alarm : j.at("alarms"))
      r.alarms.push_back({alarm.at("kind"), alarm.at("message"), alarm.value("classes", std::vector<std::string>{})});
    return r;
  } catch (const nlohmann::json::exception&) {
    throw Error(ErrorKind::kCheckpoint, "not a record of an epoch");
  }
}

}  // namespace semiseg
