// Verifying spilled objects before the raylet sends them. The names are the list of damages survived.

#include "mantaray/spill/pull_check.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "mantaray/spill/posix_engine_fixture.h"

namespace mantaray::spill {
namespace {

class PullCheckTest : public EngineTest {
 protected:
  PullCheckTest() {
    std::filesystem::create_directories(notes_);
    // The name that a node's directory has, by which the check knows it.
    options_.node_directories.clear();
    AddDirectory(std::string(kNodeDirectoryPrefix) + "00");
  }

  static std::string PathOf(const std::string& url) { return ParseUrl(url)->path; }

  // What stands in the only note; empty without one. Removes it.
  std::string TakeNote() {
    std::string text;
    for (const auto& entry : std::filesystem::directory_iterator(notes_)) {
      EXPECT_TRUE(text.empty()) << "more than one note";
      EXPECT_EQ(entry.path().filename().string().find(kPullNotePrefix), 0u) << entry.path();
      std::stringstream all;
      all << std::ifstream(entry.path()).rdbuf();
      text = all.str();
      std::filesystem::remove(entry.path());
    }
    return text;
  }

  std::string notes_ = root_ + "/notes";
  PullCheck check_{&fs_, &clock_, notes_};
};

TEST_F(PullCheckTest, SoundObjectsOfEverySizeMayBeSent) {
  const auto engine = MakeEngine();
  std::vector<Sample> samples;
  for (const size_t size_bytes : {0, 1, 65536, 150000, 3 << 20}) {
    samples.push_back(MakeSample(static_cast<uint32_t>(size_bytes), size_bytes));
  }
  const auto urls = *engine->Spill(Views(samples));
  for (const std::string& url : urls) EXPECT_TRUE(check_.MayRead(PathOf(url))) << url;
  EXPECT_EQ(TakeNote(), "");
}

TEST_F(PullCheckTest, DamageAnywhereIsNeverSentAndWrittenDown) {
  const auto engine = MakeEngine();
  for (const size_t size_bytes : {2000, 150000}) {
    const Sample sample = MakeSample(static_cast<uint32_t>(size_bytes), size_bytes);
    const std::string url = engine->Spill(Views({sample}))->front();
    const auto object_bytes = static_cast<int64_t>(ParseUrl(url)->object_bytes);
    for (const int64_t at : {int64_t{0}, int64_t{7}, int64_t{30}, object_bytes / 2, object_bytes - 1}) {
      Damage(url, at, 1);
      EXPECT_FALSE(check_.MayRead(PathOf(url))) << size_bytes << " bytes, damaged at " << at;
      EXPECT_EQ(TakeNote().find(url + "\ndamaged spilled object"), 0u);
      Damage(url, at, 1);
    }
    EXPECT_TRUE(check_.MayRead(PathOf(url)));
    EXPECT_EQ(TakeNote(), "");
  }
}

TEST_F(PullCheckTest, LostFileIsWrittenDownAndLeftToTheRaylet) {
  const auto engine = MakeEngine();
  const Sample sample = MakeSample(1, 150000);
  const std::string url = engine->Spill(Views({sample}))->front();
  std::filesystem::remove(PathOf(url));
  EXPECT_TRUE(check_.MayRead(PathOf(url)));
  EXPECT_EQ(TakeNote().find(url + "\n"), 0u);
}

TEST_F(PullCheckTest, SoundObjectIsReadOnceForAllItsChunksAndAgainLater) {
  const auto engine = MakeEngine();
  const Sample sample = MakeSample(1, 150000);
  const std::string url = engine->Spill(Views({sample}))->front();
  EXPECT_TRUE(check_.MayRead(PathOf(url)));
  Damage(url, 1000, 1);
  clock_.AdvanceMs(59000);
  EXPECT_TRUE(check_.MayRead(PathOf(url)));
  clock_.AdvanceMs(2000);
  EXPECT_FALSE(check_.MayRead(PathOf(url)));
}

TEST_F(PullCheckTest, IoErrorIsNeitherDamageNorLoss) {
  const auto engine = MakeEngine();
  const Sample sample = MakeSample(1, 150000);
  const std::string url = engine->Spill(Views({sample}))->front();
  for (int64_t at = 0;; ++at) {
    PullCheck check(&fs_, &clock_, notes_);
    fs_.passing_after = at;
    fs_.passing_errors = 1;
    EXPECT_TRUE(check.MayRead(PathOf(url)));
    if (fs_.passing_errors.exchange(0) > 0) break;  // it takes fewer operations than that
    EXPECT_EQ(TakeNote(), "");
  }
}

TEST_F(PullCheckTest, RebuiltObjectOfAnotherSizeMayBeSent) {
  const auto engine = MakeEngine();
  const Sample sample = MakeSample(1, 150000);
  const std::string url = engine->Spill(Views({sample}))->front();
  for (const size_t size_bytes : {149000, 170000}) {
    Sample rebuilt = MakeSample(2, size_bytes);
    rebuilt.id = sample.id;
    ASSERT_TRUE(engine->Replace(url, rebuilt.view()).ok());
    EXPECT_TRUE(PullCheck(&fs_, &clock_, notes_).MayRead(PathOf(url)));
    EXPECT_EQ(TakeNote(), "");
  }
}

TEST_F(PullCheckTest, NoteThatCannotBeWrittenKeepsNothingFromBeingRefused) {
  const auto engine = MakeEngine();
  const Sample sample = MakeSample(1, 150000);
  const std::string url = engine->Spill(Views({sample}))->front();
  Damage(url, 1000, 1);
  std::filesystem::remove(notes_);
  EXPECT_FALSE(check_.MayRead(PathOf(url)));
  EXPECT_FALSE(PullCheck(&fs_, &clock_, "").MayRead(PathOf(url)));
}

TEST_F(PullCheckTest, FilesThatAreNoSpilledObjectsAreNotLookedAt) {
  fs_.passing_errors = 1;
  const std::string node = "/" + std::string(kNodeDirectoryPrefix) + "00/";
  for (const std::string& path : {std::string("/proc/meminfo"), node + "owner", node + "w1-1/1/fused-0"}) {
    EXPECT_TRUE(check_.MayRead(path));
  }
  EXPECT_EQ(fs_.passing_errors, 1);
  EXPECT_EQ(TakeNote(), "");
}

}  // namespace
}  // namespace mantaray::spill
