// Units and decimal signs of the CSV files that `semiseg diagnose` reads.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "commands/command.h"
#include "semiseg/error.h"
#include "semiseg/files.h"

namespace semiseg {
namespace {

class DiagnoseCsv : public testing::Test {
 protected:
  DiagnoseCsv() : dir_(testing::TempDir() + "semiseg_csv_" + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(dir_);
    make_folders(dir_);
  }

  // The scores of each epoch that are read.
  std::vector<nlohmann::json> scores(const std::string& csv, const std::vector<std::string>& more = {}) const {
    write_file(dir_ + "/scores.csv", csv);
    testing::internal::CaptureStdout();
    std::vector<std::string> words{"diagnose", dir_ + "/scores.csv", "--json", dir_ + "/out.json"};
    words.insert(words.end(), more.begin(), more.end());
    run_command_line(words);
    testing::internal::GetCapturedStdout();
    const auto written = nlohmann::json::parse(read_file(dir_ + "/out.json"));
    std::vector<nlohmann::json> scores;
    for (const auto& epoch : written["epochs"]) scores.push_back(epoch["val"]);
    return scores;
  }

  std::string refusal(const std::string& csv, const std::vector<std::string>& more = {}) const {
    try {
      scores(csv, more);
    } catch (const Error& error) {
      testing::internal::GetCapturedStdout();
      EXPECT_EQ(error.kind(), ErrorKind::kData);
      return error.what();
    }
    return "nothing is refused";
  }

  const std::string dir_, header_ = "epoch,miou,mean_class_accuracy,pixel_accuracy\n";
};

TEST_F(DiagnoseCsv, EachColumnHasAUnitOfItsOwn) {
  auto read = scores(header_ + "1,0.2459,37.14,80.59\n2,0.2322,30.08,83.23\n");
  EXPECT_DOUBLE_EQ(read[0]["miou"], .2459);
  EXPECT_DOUBLE_EQ(read[0]["mean_class_accuracy"], .3714);
  EXPECT_DOUBLE_EQ(read[1]["pixel_accuracy"], .8323);

  read = scores(
      "epoch,miou,mean_class_accuracy,pixel_accuracy,iou/road,iou/pole,label_share/road,label_share/pole,other/x\n"
      "1,24.59,.3714,.8059,90,0.4,.98,.02,700\n2,23.22,.3008,.8323,91,0,.98,.02,0.5\n");
  EXPECT_DOUBLE_EQ(read[0]["miou"], .2459);
  EXPECT_DOUBLE_EQ(read[0]["iou"][1], .004);
  EXPECT_DOUBLE_EQ(read[1]["iou"][0], .91);
  EXPECT_EQ(scores("val/miou,val/mean_class_accuracy,val/pixel_accuracy\n.2,.3,.4\n")[0]["pixel_accuracy"], .4);
}

TEST_F(DiagnoseCsv, PercentMayBeBelowOne) {
  for (const char* rows : {"1,0.4,5.3,31\n2,2.1,7,60\n3,12,20,80\n",   // it rises from there
                           "0,0.2,0.3,0.3\n1,28,37,80\n2,30,41,82\n",  // before training
                           "1,24,35,70\n2,20,31,75\n3,0.7,5.3,33\n",   // it collapses
                           "1,29,35,70\n2,28,31,75\n3,0.6,2.1,3\n",    // at once
                           "1,0.4,2.2,30\n2,25,33,70\n3,30,38,75\n"}) {
    const auto read = scores(header_ + rows);
    EXPECT_LT(read[0]["miou"], .3) << rows;
    EXPECT_LT(read[2]["miou"], .31) << rows;
  }
  // All of the column: more than the mean class accuracy an mIoU cannot be.
  EXPECT_DOUBLE_EQ(scores(header_ + "1,0.4,1.3,31\n2,0.7,1.6,33\n")[1]["miou"], .007);
}

TEST_F(DiagnoseCsv, ColumnsAreKnownByTheNamesThatOthersGiveThem) {
  for (const char* iou : {"IoU_road,IoU_pole", "IoU/road,iou/pole", "road/iou,pole/iou", "val/iou.road,val/iou.pole",
                          "IoU.road,IoU.pole", "iou(road),iou(pole)", "run 7 - val/iou/road,run 7 - val/iou/pole"}) {
    const auto read = scores(std::string("Epoch,Train Loss,Val Loss,Mean IoU,Overall Acc,mAcc,train/mIoU,") + iou +
                             "\n1,3,2,.2,.8,.3,.9,.7,.1\n");
    ASSERT_EQ(read[0]["iou"].size(), 2u) << iou;
    EXPECT_EQ(read[0]["iou"][1], .1) << iou;
    EXPECT_EQ(read[0]["miou"], .2);
    EXPECT_EQ(read[0]["pixel_accuracy"], .8);
  }
  const auto exported =
      scores("\"Step\",\"a - val/mIoU\",\"a - val/mIoU__MIN\",\"a - val/mIoU__MAX\",\"a - val/aAcc\"\n1,.2,.2,.2,.8\n");
  EXPECT_EQ(exported[0]["miou"], .2);
  EXPECT_TRUE(exported[0]["mean_class_accuracy"].is_null());
}

TEST_F(DiagnoseCsv, ClassesAreFoundByName) {
  const std::string columns = "epoch,miou,mean_class_accuracy,pixel_accuracy,iou/road,iou/pole,";
  auto read = scores(columns +
                     "label_share/pole,label_share/road,prediction_share/road,prediction_share/pole\n"
                     "1,.5,.6,.9,.9,.1,.02,.98,.99,.01\n");
  EXPECT_EQ(read[0]["label_share"], nlohmann::json::parse("[0.98, 0.02]"));
  EXPECT_EQ(read[0]["prediction_share"], nlohmann::json::parse("[0.99, 0.01]"));
  write_file(dir_ + "/classes.yaml", "classes: [{name: sky}, {name: pole}, {name: road}]\n");
  read = scores(columns + "x\n1,.5,.6,.9,.9,.1,0\n", {"--classes", dir_ + "/classes.yaml"});
  EXPECT_EQ(read[0]["iou"], nlohmann::json::parse("[null, 0.1, 0.9]"));
  write_file(dir_ + "/classes.yaml", "classes: [{name: sky}, {name: pole}]\n");
  EXPECT_NE(refusal(columns + "x\n1,.5,.6,.9,.9,.1,0\n", {"--classes", dir_ + "/classes.yaml"})
                .find("the class \"road\" of the column"),
            std::string::npos);
}

TEST_F(DiagnoseCsv, WhatIsNoClassIsNoClass) {
  write_file(dir_ + "/classes.yaml", "classes: [{name: road}, {name: pole}]\n");
  const std::vector<std::string> classes{"--classes", dir_ + "/classes.yaml"};
  EXPECT_TRUE(scores("epoch,miou,aAcc,acc_seg,iou_0.5,fw_iou\n1,.5,.6,.7,.8,.9\n", classes)[0]["iou"].empty());
  EXPECT_EQ(scores("epoch,miou,aAcc,iou/1,iou/0\n1,.5,.6,.1,.9\n", classes)[0]["iou"], nlohmann::json::parse("[0.9, 0.1]"));
  EXPECT_EQ(scores("epoch,miou,aAcc,iou/pole,class_accuracy/99999999999999999999\n1,.5,.6,.1,.2\n", classes)[0]["iou"][1], .1);
  // A share that is not known is not 0.
  const auto read = scores(
      "epoch,miou,aAcc,iou/road,iou/pole,label_share/road,label_share/pole,prediction_share/road,prediction_share/pole\n"
      "1,.5,.6,.9,.1,.9,.1,.95,.05\n2,.5,.6,.9,.1,.9,.1,1,\n");
  EXPECT_EQ(read[0]["prediction_share"].size(), 2u);
  EXPECT_TRUE(read[1]["prediction_share"].empty());
}

TEST_F(DiagnoseCsv, LinesMayBeOutOfOrderTwiceOrLackScores) {
  auto read = scores("step,mIoU,aAcc\n3000,.3,.8\n1000,.1,.6\n2000,.2,.7\n");
  EXPECT_EQ(read[0]["miou"], .1);
  EXPECT_EQ(read[2]["miou"], .3);
  read = scores(header_ + "2,.2,.3,.4\n3,.3,.4,.5\n3,.35,.4,.5\n1,.1,.2,.3\n");
  ASSERT_EQ(read.size(), 3u);
  EXPECT_EQ(read[0]["miou"], .1);
  EXPECT_EQ(read[2]["miou"], .35);
  read = scores(header_ + "1,NA,None,N/A\n2,24.59%,,80.6 %\n3,23%,30%,\n4,22.1%,30.0%,81%\n");
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[0]["miou"], .2459);
  EXPECT_TRUE(read[0]["mean_class_accuracy"].is_null());
  EXPECT_EQ(read[1]["pixel_accuracy"], .81);
}

TEST_F(DiagnoseCsv, TheValidationColumnCounts) {
  auto read = scores("epoch,accuracy,loss,miou,val_accuracy,val_loss,val_miou\n1,.9,3,.8,.7,4,.5\n");
  EXPECT_EQ(read[0]["pixel_accuracy"], .7);
  EXPECT_EQ(read[0]["miou"], .5);
  read = scores("epoch,Mean IoU (%),Pixel Acc [%]\n1,24.59,80.59\n");
  EXPECT_EQ(read[0]["miou"], .2459);
  EXPECT_NE(refusal("epoch,miou,acc,mIoU\n1,.5,.6,.7\n").find("two columns are called miou"), std::string::npos);
}

TEST_F(DiagnoseCsv, NamesMayStandBehindAHash) {
  const auto read = scores("# made by hand\n# epoch,miou,pixel_accuracy,mean_class_accuracy\n1,24.59,80.59,37.14\n");
  EXPECT_DOUBLE_EQ(read[0]["pixel_accuracy"], .8059);
  EXPECT_DOUBLE_EQ(read[0]["mean_class_accuracy"], .3714);
}

TEST_F(DiagnoseCsv, EpochsInPartsAreOrderedByStep) {
  auto read = scores("epoch,step,miou,acc\n0,25,.1,.6\n0,50,.2,.6\n1,75,.3,.6\n1,100,.4,.6\n");
  ASSERT_EQ(read.size(), 4u);
  EXPECT_EQ(read[3]["miou"], .4);
  read = scores("epoch,miou,acc\n0.5,.1,.6\n1.0,.2,.6\n1.5,.3,.6\n");
  ASSERT_EQ(read.size(), 3u);
}

TEST_F(DiagnoseCsv, MixedUnitsAreRefusedWithTheLine) {
  const std::string fractions = "1,.2459,.3714,.8059\n2,.2322,.3008,.8323\n";
  EXPECT_NE(
      refusal(header_ + fractions + "3,23.02,.2959,.8435\n4,.2173,.2842,.8490\n")
          .find("scores.csv:4: \"23.02\" and \".2459\" of line 2 cannot both be fractions: miou; give all of a column as"),
      std::string::npos);
  EXPECT_NE(refusal(header_ + "1,24.59,37.14,80.59\n2,23.22,30.08,.8323\n3,23.02,29.59,84.35\n")
                .find("scores.csv:3: \".8323\" and \"80.59\" of line 2 cannot both be percent: pixel_accuracy"),
            std::string::npos);
  EXPECT_NE(refusal("epoch,miou,mean_class_accuracy,pixel_accuracy,iou/road,iou/pole\n1,.5,.6,.7,.9,.1\n2,.5,.6,.7,90,12\n")
                .find("scores.csv:3: \"90\" and \".9\" of line 2 cannot both be fractions: iou"),
            std::string::npos);
}

TEST_F(DiagnoseCsv, PercentSignsAreForAllOrNone) {
  EXPECT_NE(refusal(header_ + "1,24.59%,37%,80.59%\n2,.2322,30%,83%\n")
                .find("scores.csv:3: has no percent sign for miou, as line 2 has"),
            std::string::npos);
}

TEST_F(DiagnoseCsv, DecimalCommasAreReadWhereSomethingElseSeparates) {
  EXPECT_EQ(scores("epoch;miou;mean_class_accuracy;pixel_accuracy\n1;0,2459;0,3714;0,8059\n")[0]["miou"], .2459);
  EXPECT_NE(refusal(header_ + "1,0,2459,0,3714,0,8059\n").find("scores.csv:2: has 7 values, not 4: are these decimal commas?"),
            std::string::npos);
}

}  // namespace
}  // namespace semiseg
