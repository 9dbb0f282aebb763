// What commands write over, and what they say of names that a user gets wrong.
#include <ATen/ATen.h>

#include "program.h"
#include "semiseg/dataset.h"

namespace semiseg {
namespace {

namespace fs = std::filesystem;

// Three images with labels in folders of a user, one without.
class Outputs : public ProgramTest {
 protected:
  Outputs()
      : ProgramTest(R"(data: {format: list, root: mine, classes: classes.yaml, labeled: train.txt, val: val.txt,
       unlabeled: more.txt, crop: 64, workers: 1}
model: {backbone: resnet18}
optim: {batch_labeled: 2, batch_unlabeled: 2, steps: 2}
semi: {method: fixmatch, threshold: 0.1}
report: {html: false, tensorboard: false, samples: 0}
)") {
    make_folders(dir_ + "/mine/images");
    make_folders(dir_ + "/mine/labels");
    write_file(dir_ + "/classes.yaml", "classes: [{name: road}, {name: Gebäude}]\n");
    for (const std::string name : {"a", "b", "c", "d"}) {
      write_image(dir_ + "/mine/images/" + name + ".png", at::full({40, 50, 3}, name[0], at::kByte));
      if (name != "d") add_label("mine/labels/" + name + ".png");
    }
    write_file(dir_ + "/train.txt", "images/a.png labels/a.png\nimages/b.png labels/b.png\n");
    write_file(dir_ + "/val.txt", "images/c.png labels/c.png\n");
    write_file(dir_ + "/more.txt", "images/d.png\n");
  }

  // Makes runs/r1.
  std::string train() const {
    const Outcome outcome = semiseg("train tiny.yaml run.name=r1 checkpoint.every_steps=1");
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    return outcome.output;
  }

  void add_label(const std::string& path) const {
    make_folders(fs::path(dir_ + "/" + path).parent_path().string());
    write_label_png(dir_ + "/" + path, at::arange(40 * 50).remainder(2).to(at::kByte).view({40, 50}));
  }

  // All files of a folder and what they hold.
  std::map<std::string, std::string> contents(const std::string& folder) const {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::recursive_directory_iterator(dir_ + "/" + folder))
      if (entry.is_regular_file()) all[entry.path().string()] = read_file(entry.path().string());
    return all;
  }

  void expect_refused(const std::string& words, int code, const std::string& says) const {
    const auto before = contents("mine");
    const Outcome outcome = semiseg(words);
    EXPECT_EQ(outcome.code, code) << words << "\n" << outcome.output;
    EXPECT_NE(outcome.output.find(says), std::string::npos) << words << "\n" << outcome.output;
    EXPECT_EQ(contents("mine"), before) << words;
  }
};

TEST_F(Outputs, ImagesAndLabelsOfAUserAreNotReplaced) {
  train();
  const std::string network = "runs/r1/checkpoints/last.safetensors ";
  const std::string listed = "is an image, a label or a list of the data set",
                    foreign = "which is no earlier result of semiseg";
  expect_refused("eval runs/r1 tiny.yaml --predictions mine/labels", 2, "mine/labels/c.png: " + listed);
  expect_refused("eval runs/r1 --predictions mine/images", 2, "choose another folder with --predictions");
  expect_refused("predict runs/r1 mine/images -o mine/labels", 2, "mine/labels/a.png: " + listed);
  expect_refused("pseudo-label " + network + "tiny.yaml -o mine", 2, listed);

  // The same of files that no list names.
  add_label("mine/more/c.png");
  add_label("mine/more/labels/x.png");
  expect_refused("eval runs/r1 --predictions mine/more", 2, "mine/more/c.png: a result would replace this file, " + foreign);
  expect_refused("predict runs/r1 mine/images/c.png -o mine/more", 2, foreign);
  expect_refused("pseudo-label " + network + "tiny.yaml -o mine/more", 2, "labels/x.png: a result would replace");
  make_folders(dir_ + "/mine/lists");
  write_file(dir_ + "/mine/lists/list.txt", "of the user\n");
  expect_refused("pseudo-label " + network + "tiny.yaml -o mine/lists", 2, "lists/list.txt: pseudo-label would replace");

  // Results of an earlier call are replaced.
  for (const std::string& words :
       {std::string("eval runs/r1 tiny.yaml --predictions out"), std::string("predict runs/r1 mine/images -o out --confidence"),
        "pseudo-label " + network + "tiny.yaml -o pseudo"})
    for (int time = 0; time < 2; ++time) {
      const Outcome outcome = semiseg(words);
      ASSERT_EQ(outcome.code, 0) << words << "\n" << outcome.output;
    }
  // But not where they have become data: a list that is read, labels that are learnt from.
  const auto before = contents("pseudo");
  EXPECT_EQ(semiseg("pseudo-label " + network + "tiny.yaml -o pseudo data.unlabeled=pseudo/list.txt").code, 2);
  EXPECT_EQ(semiseg("pseudo-label " + network + "tiny.yaml -o pseudo data.labeled=pseudo/reliable.txt").code, 2);
  EXPECT_EQ(contents("pseudo"), before);

  // Frames of a video are called as these are, whatever their number.
  add_label("frames/drive_000123.png");
  fs::copy(dir_ + "/mine/images/a.png", dir_ + "/drive.mp4");
  const Outcome video = semiseg("predict runs/r1 drive.mp4 -o frames");
  EXPECT_EQ(video.code, 2) << video.output;
  EXPECT_NE(video.output.find("frames/drive_000123.png: "), std::string::npos) << video.output;
}

TEST_F(Outputs, ResumeTakesTheNewestCheckpointForItsRun) {
  train();
  const auto refused = [&](const std::string& words, const std::string& says) {
    const Outcome outcome = semiseg("train --resume " + words);
    EXPECT_EQ(outcome.code, 2) << outcome.output;
    EXPECT_NE(outcome.output.find(says), std::string::npos) << outcome.output;
  };
  const Outcome newest = semiseg("train --resume runs/r1/checkpoints/last.safetensors");
  EXPECT_EQ(newest.code, 0) << newest.output;
  EXPECT_NE(newest.output.find("longer with: semiseg train --resume runs/r1 --extend"), std::string::npos) << newest.output;
  refused("runs/r1/checkpoints/step_00000001.safetensors",
          "not the newest of its run: that is of step 2; use --resume runs/r1\n");
  refused("runs/r1/checkpoints", "use --resume runs/r1\n");
  refused("r1", "there is no such run folder; did you mean --resume runs/r1?");
  refused("nothing", "nothing: there is no such run folder\n");
  refused("tiny.yaml", "is neither a run folder nor a checkpoint");
  fs::copy(dir_ + "/runs/r1/checkpoints/last.safetensors", dir_ + "/alone.safetensors");
  refused("alone.safetensors", "model.weights=alone.safetensors");

  fs::rename(dir_ + "/runs/r1", dir_ + "/runs/the first");
  const Outcome quoted = semiseg("train --resume 'runs/the first'");
  EXPECT_NE(quoted.output.find("--resume 'runs/the first' --extend"), std::string::npos) << quoted.output;
  const auto environment = nlohmann::json::parse(read_file(dir_ + "/runs/the first/environment.json"));
  EXPECT_TRUE(environment["resumed"].back()["command_line"].get<std::string>().ends_with("train --resume 'runs/the first'"));
}

TEST_F(Outputs, ANetworkThatIsNotThereIsNamed) {
  make_folders(dir_ + "/runs/r1");
  for (const char* words :
       {"eval nope.safetensors", "export nope.safetensors -o a.onnx", "predict nope.safetensors mine -o out"}) {
    const Outcome outcome = semiseg(words);
    EXPECT_EQ(outcome.code, 7) << outcome.output;
    EXPECT_NE(outcome.output.find("nope.safetensors: there is no such checkpoint, run folder or weights file\n"),
              std::string::npos)
        << outcome.output;
  }
  EXPECT_NE(semiseg("eval r1").output.find("did you mean runs/r1?"), std::string::npos);
}

TEST_F(Outputs, WhereAFileCannotBeWrittenIsFoundBeforeTheWork) {
  train();
  write_file(dir_ + "/scores.csv", "epoch,miou,mean_class_accuracy,pixel_accuracy\n1,.2,.3,.4\n");
  for (const std::string words :
       {"eval runs/r1 --json", "bench tiny.yaml --json", "diagnose scores.csv --json", "check tiny.yaml --json",
        "compare runs/r1 -o compare.html --json", "compare runs/r1 -o", "export runs/r1 --output logits -o"}) {
    const Outcome outcome = semiseg(words + " nowhere/a.onnx");
    EXPECT_EQ(outcome.code, 6) << words << outcome.output;
    EXPECT_NE(outcome.output.find("error: nowhere/a.onnx: cannot create the file"), std::string::npos) << outcome.output;
    EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), words.starts_with("export") ? 2 : 1)
        << outcome.output;
  }
}

TEST_F(Outputs, ARunWithoutItsCheckpointsIsShownAndAKilledOneIsCalledSo) {
  const std::string trained = train();
  // Columns stand below each other for every name of a class.
  for (const char* line : {"\nroad                50.000%", "\nGebäude             50.000%"})
    EXPECT_NE(trained.find(line), std::string::npos) << trained;
  fs::remove_all(dir_ + "/runs/r1/checkpoints");
  EXPECT_EQ(semiseg("watch runs/r1").code, 0);
  auto status = nlohmann::json::parse(read_file(dir_ + "/runs/r1/status.json"));
  status["state"] = "running";
  status["pid"] = 4194305;  // above the largest that Linux gives
  status["updated"] = "2020-01-01T00:00:00Z";
  write_file(dir_ + "/runs/r1/status.json", status.dump());
  EXPECT_NE(semiseg("watch runs/r1").output.find("killed"), std::string::npos);
  const Outcome compared = semiseg("compare runs/r1 --json compare.json");
  EXPECT_NE(compared.output.find("killed\n"), std::string::npos) << compared.output;
  EXPECT_EQ(nlohmann::json::parse(read_file(dir_ + "/compare.json"))["runs"][0]["state"], "killed");
  fs::remove(dir_ + "/runs/r1/status.json");
  const Outcome metrics_alone = semiseg("watch runs/r1");
  EXPECT_EQ(metrics_alone.code, 0) << metrics_alone.output;
  EXPECT_NE(metrics_alone.output.find("unknown"), std::string::npos) << metrics_alone.output;
}

TEST_F(Outputs, PresetsAreFoundBesideAnInstalledProgram) {
  make_folders(dir_ + "/prefix/bin");
  make_folders(dir_ + "/prefix/share/semiseg/configs/own");
  fs::copy(program(), dir_ + "/prefix/bin/semiseg");
  const std::string preset = dir_ + "/prefix/share/semiseg/configs/own/tiny.yaml";
  write_file(preset, R"(data: {format: synthetic, size: [64, 96], counts: [2, 0, 1], crop: 64}
semi: {method: supervised}
optim: {steps: 1}
)");
  const Outcome config = shell("prefix/bin/semiseg config configs/own/tiny.yaml");
  EXPECT_EQ(config.code, 0) << config.output;
  EXPECT_EQ(config.output.find("# taking " + fs::canonical(preset).string() + "\n"), 0u) << config.output;
  const Outcome checked = shell("prefix/bin/semiseg check configs/own/tiny.yaml");
  EXPECT_EQ(checked.code, 0) << checked.output;
  EXPECT_NE(checked.output.find("taking " + fs::canonical(preset).string()), std::string::npos) << checked.output;
  const Outcome none = shell("prefix/bin/semiseg config configs/own/none.yaml");
  EXPECT_EQ(none.code, 2);
  EXPECT_NE(none.output.find("configs/own/none.yaml"), std::string::npos) << none.output;
}

TEST_F(Outputs, SynthKeepsWhatItDidNotMake) {
  ASSERT_EQ(semiseg("synth street --train 4 --val 1 --size 64x96").code, 0);
  EXPECT_EQ(semiseg("synth street --train 4 --val 1 --size 64x96 --seed 2").code, 0);
  add_label("street/gtFine/val/synth/synth_mine.png");
  for (const char* folder : {"street", "mine"}) {
    const Outcome refused = semiseg(std::string("synth ") + folder + " --train 1 --val 1 --size 64x96");
    EXPECT_EQ(refused.code, 2) << refused.output;
    EXPECT_NE(refused.output.find("the folder holds other things"), std::string::npos) << refused.output;
  }
  fs::remove(dir_ + "/street/gtFine/val/synth/synth_mine.png");
  // The example of its help.
  const Outcome help = semiseg("help synth");
  ASSERT_EQ(help.code, 0);
  EXPECT_EQ(help.output, semiseg("synth --help").output);
  size_t at = help.output.find("semiseg check ");
  ASSERT_NE(at, std::string::npos);
  std::string words = help.output.substr(at + 8, help.output.find('\n', at) - at - 8);
  at = words.find("/tmp/street");
  ASSERT_NE(at, std::string::npos);
  words.replace(at, 11, dir_ + "/street");
  at = words.find("configs/");
  words.insert(at, SEMISEG_SOURCE_DIR "/");
  const Outcome example = semiseg(words + " data.crop=64");
  EXPECT_EQ(example.code, 0) << words << "\n" << example.output;
  EXPECT_EQ(semiseg("help nothing").code, 2);
}

// A class that nobody labelled: the run says so wherever its user looks, and how right its pseudo-labels are.
TEST_F(Outputs, AlarmsAndTheTruthOfPseudoLabelsReachTheLogMetricsAndReport) {
  write_file(dir_ + "/classes.yaml", "classes: [{name: road}, {name: Gebäude}, {name: tram}]\n");
  add_label("mine/labels/d.png");
  write_file(dir_ + "/more.txt", "images/d.png labels/d.png\n");
  const Outcome trained = semiseg("train tiny.yaml run.name=r1 data.unlabeled_truth=true semi.threshold=0 report.html=true");
  ASSERT_EQ(trained.code, 0) << trained.output;
  const auto epoch = metrics("runs/r1").at(0);
  ASSERT_EQ(epoch["alarms"].size(), 1u) << epoch["alarms"];
  EXPECT_EQ(epoch["alarms"][0]["kind"], "no_labelled_pixel");
  EXPECT_EQ(epoch["alarms"][0]["classes"], std::vector<std::string>{"tram"});
  const std::string message = epoch["alarms"][0]["message"];
  for (const char* file : {"train.log", "report.html"})
    EXPECT_NE(read_file(dir_ + "/runs/r1/" + file).find(message.substr(0, 40)), std::string::npos) << file;
  EXPECT_NE(trained.output.find(message), std::string::npos) << trained.output;

  // Every pixel is labelled and accepted, so that what is right of the labels is what is found of the classes.
  const auto& pseudo = epoch["pseudo"];
  EXPECT_EQ(pseudo["accepted"], 1);
  double right_of_labels = 0, right_of_truth = 0;
  for (size_t c = 0; c < 3; ++c) {
    const auto number = [](const nlohmann::json& value) { return value.is_null() ? 0 : value.get<double>(); };
    right_of_labels += number(pseudo["precision"][c]) * number(pseudo["share"][c]);
    right_of_truth += number(pseudo["recall"][c]) * (c < 2 ? 0.5 : 0);  // classes in columns by turns
  }
  EXPECT_NEAR(right_of_labels, right_of_truth, 1e-2);
  EXPECT_GT(right_of_labels, 0);
  EXPECT_TRUE(pseudo["recall"][2].is_null());
}

// The class file is the user's, and may have changed since the training.
TEST_F(Outputs, OtherClassesThanThoseOfTheCheckpointAreRefused) {
  train();
  for (const char* classes :
       {"classes: [{name: Gebäude, id: 1}, {name: road, id: 0}]\n", "classes: [{name: street}, {name: Gebäude}]\n",
        "classes: [{name: road}, {name: Gebäude}, {name: tram}]\n"}) {
    write_file(dir_ + "/classes.yaml", classes);
    for (const std::string words : {"eval runs/r1", "train --resume runs/r1 --extend 1"}) {
      const Outcome outcome = semiseg(words);
      EXPECT_EQ(outcome.code, 2) << words << "\n" << outcome.output;
      EXPECT_NE(outcome.output.find("data.classes"), std::string::npos) << words << "\n" << outcome.output;
    }
    const bool only_renamed = std::string(classes).find("street") != std::string::npos;
    for (const std::string words : {"eval runs/r1/checkpoints/last.safetensors tiny.yaml",
                                    "pseudo-label runs/r1/checkpoints/last.safetensors tiny.yaml -o pseudo --threshold 0"})
      EXPECT_EQ(semiseg(words).code, only_renamed ? 0 : 2) << words << classes;
  }
}

TEST_F(Outputs, AnEditedConfigOfARunIsNotTakenInSilence) {
  train();
  const std::string path = dir_ + "/runs/r1/config.yaml", written = read_file(path);
  EXPECT_EQ(semiseg("train --resume runs/r1").output.find("was changed"), std::string::npos);
  std::string edited = written;
  edited.replace(edited.find("lr: 0.01"), 8, "lr: 0.05");
  write_file(path, edited);
  const Outcome resumed = semiseg("train --resume runs/r1 --extend 1");
  EXPECT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_NE(resumed.output.find("config.yaml was changed (optim.lr: 0.05 instead of 0.01)"), std::string::npos)
      << resumed.output;
  // A run that was moved, and one that was made longer, are not edited.
  fs::rename(dir_ + "/runs/r1", dir_ + "/moved");
  for (const char* words :
       {"train --resume moved", "train --resume moved", "train --resume moved --extend 1", "train --resume moved"}) {
    const Outcome outcome = semiseg(words);
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    EXPECT_EQ(outcome.output.find("was changed"), std::string::npos) << outcome.output;
  }
}

TEST_F(Outputs, ABurnInWithoutEndIsTold) {
  for (const auto& [settings, tells] :
       {std::pair("optim.epochs=1 semi.burn_in_epochs=1", true), std::pair("optim.epochs=2 semi.burn_in_epochs=1", false)}) {
    const Outcome outcome = semiseg(str("train tiny.yaml run.name=burnt", tells, " ", settings));
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    EXPECT_EQ(outcome.output.find("nothing is learned from unlabelled images") != std::string::npos, tells) << outcome.output;
  }
}

TEST_F(Outputs, RunsOnOtherValidationLabelsAreNotRanked) {
  train();
  ASSERT_EQ(semiseg("train tiny.yaml run.name=r2 optim.lr=0.1").code, 0);
  ASSERT_EQ(semiseg("train tiny.yaml run.name=other data.val=train.txt").code, 0);
  const Outcome same = semiseg("compare runs/r1 runs/r2"), other = semiseg("compare runs/r1 runs/r2 runs/other");
  EXPECT_EQ(same.output.find("cannot be compared"), std::string::npos) << same.output;
  EXPECT_NE(same.output.find("*"), std::string::npos) << same.output;
  EXPECT_EQ(other.code, 0);
  EXPECT_NE(other.output.find("runs/other was scored on other validation labels than runs/r1"), std::string::npos)
      << other.output;
  EXPECT_EQ(other.output.find("*"), std::string::npos) << other.output;
}

}  // namespace
}  // namespace semiseg
