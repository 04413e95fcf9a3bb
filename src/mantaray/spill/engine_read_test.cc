// Tests of reading and deleting on real files: what a reader sees, damage, reading ahead, blocks that come back. The
// names are the list of damages.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mantaray/spill/engine.h"
#include "mantaray/spill/io_buffers.h"
#include "mantaray/spill/large_reads.h"
#include "mantaray/spill/posix_engine_fixture.h"

namespace mantaray::spill {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST_F(EngineTest, DiskFollowsLiveBytesWhileOneInTwentyLives) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(100, 1000000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  std::vector<std::string> dead;
  for (size_t i = 0; i < urls->size(); ++i) {
    if (i % 20 != 0) dead.push_back((*urls)[i]);
  }
  ASSERT_TRUE(engine->Delete(dead).ok());
  Reclaim(engine.get());
  EXPECT_LE(DiskBytes(), 5 * 1000000 * 105 / 100);
  for (size_t i = 0; i < urls->size(); i += 20) EXPECT_TRUE(ReadBack(engine.get(), (*urls)[i], samples[i]).ok());
  std::vector<std::string> rest;
  for (size_t i = 0; i < urls->size(); i += 20) rest.push_back((*urls)[i]);
  ASSERT_TRUE(engine->Delete(rest).ok());
  EXPECT_EQ(DiskBytes(), 0u);
}

TEST_F(EngineTest, DeletingTwiceOrWhatIsGoneIsNoError) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(3, 5000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  EXPECT_TRUE(engine->Delete(*urls).ok());
  EXPECT_TRUE(engine->Delete(*urls).ok());
  EXPECT_TRUE(engine->Delete(std::vector<std::string>{root_ + "/a/never/was?offset=0&size=1"}).ok());
}

TEST_F(EngineTest, ReaderThatOpenedBeforeTheDeleteNeverSeesAHoleHoweverLongItTakes) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(2, 5 << 20);  // large: streamed, not buffered
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  absl::StatusOr<ObjectReader> reader = engine->Open((*urls)[0], samples[0].id);
  ASSERT_TRUE(reader.ok());
  ASSERT_TRUE(engine->Delete({&(*urls)[0], 1}).ok());
  Reclaim(engine.get());
  std::string payload(reader->payload_bytes(), '\0');
  EXPECT_TRUE(reader->ReadPayload(payload, &parallel_).ok());
  EXPECT_TRUE(payload == samples[0].payload);
  EXPECT_GT(engine->Stats().reclaimer.delayed_punches, 0u);
  reader = absl::NotFoundError("closed");
  Reclaim(engine.get());
  EXPECT_LE(DiskBytes(), samples[1].view().record_bytes());
  EXPECT_TRUE(ReadBack(engine.get(), (*urls)[1], samples[1]).ok());
}

TEST_F(EngineTest, WithoutRangeLocksAReaderHasTheGraceTimeAndThenAnError) {
  fs_.range_locks = false;
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(2, 5 << 20);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  absl::StatusOr<ObjectReader> reader = engine->Open((*urls)[0], samples[0].id);
  ASSERT_TRUE(reader.ok());
  ASSERT_TRUE(engine->Delete({&(*urls)[0], 1}).ok());
  clock_.AdvanceMs(options_.reclaimer.punch_delay_ms - 1);
  engine->Tick();
  std::string payload(reader->payload_bytes(), '\0');
  EXPECT_TRUE(reader->ReadPayload(payload, &parallel_).ok());
  EXPECT_TRUE(payload == samples[0].payload);
  clock_.AdvanceMs(1);
  engine->Tick();
  // After the grace time the blocks are gone, and the checksum keeps the zeros from being taken for data.
  EXPECT_TRUE(absl::IsDataLoss(reader->ReadPayload(payload, &parallel_)));
  // That is no damage: the object had been deleted.
  EXPECT_FALSE(engine->SetAside((*urls)[0], reader->inode()));
  EXPECT_TRUE(ReadBack(engine.get(), (*urls)[1], samples[1]).ok());
}

TEST_F(EngineTest, ReaderOfAWhollyDeletedSegmentKeepsItWhole) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(2, 5 << 20);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  absl::StatusOr<ObjectReader> reader = engine->Open((*urls)[0], samples[0].id);
  ASSERT_TRUE(reader.ok());
  ASSERT_TRUE(engine->Delete(*urls).ok());
  Reclaim(engine.get());
  std::string payload(reader->payload_bytes(), '\0');
  EXPECT_TRUE(reader->ReadPayload(payload, &parallel_).ok());
  EXPECT_TRUE(payload == samples[0].payload);
}

TEST_F(EngineTest, InodeUsedAgainWithinTheGraceTimeKeepsItsNewData) {
  const auto engine = MakeEngine();
  const auto inode = [](const std::string& url) {
    struct stat data {};
    EXPECT_EQ(stat(ParseUrl(url)->path.c_str(), &data), 0);
    return data.st_ino;
  };
  int used_again = 0;
  for (uint32_t round = 0; round < 10; ++round) {
    // A segment of which one object is deleted, so that its punch is pending, and then all the others.
    const std::vector<Sample> old = MakeSamples(4, 50000, 100 * round);
    const auto old_urls = engine->Spill(Views(old));
    ASSERT_TRUE(old_urls.ok());
    const ino_t old_inode = inode(old_urls->front());
    ASSERT_TRUE(engine->Delete(*old_urls).ok());
    // The next one gets its inode, and has a punch of its own pending when the old one's comes due.
    clock_.AdvanceMs(options_.reclaimer.punch_delay_ms / 2);
    const std::vector<Sample> fresh = MakeSamples(4, 50000, 100 * round + 50);
    const auto urls = engine->Spill(Views(fresh));
    ASSERT_TRUE(urls.ok());
    if (inode(urls->front()) == old_inode) ++used_again;
    const size_t last = 3;
    ASSERT_TRUE(engine->Delete({&(*urls)[last], 1}).ok());
    clock_.AdvanceMs(options_.reclaimer.punch_delay_ms / 2);
    engine->Tick();
    for (size_t i = 0; i < last; ++i) EXPECT_TRUE(ReadBack(engine.get(), (*urls)[i], fresh[i]).ok()) << i;
    ASSERT_TRUE(engine->Delete(*urls).ok());
  }
  if (used_again == 0) GTEST_SKIP() << "this file system does not use inodes again at once";
}

TEST_F(EngineTest, MorePunchesPendingThanAllowedAreStillDone) {
  options_.reclaimer.max_pending_ranges = 4;
  options_.reclaimer.max_pending_files = 2;
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(100, 50000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  ASSERT_TRUE(engine->Delete(std::span(*urls).subspan(1)).ok());
  for (int i = 0; i < 40; ++i) Reclaim(engine.get());
  // One in eight of the gaps cannot wait in so short a queue at once; all of them get their turn.
  EXPECT_LE(DiskBytes(), uint64_t{2} * 57344);
  EXPECT_TRUE(ReadBack(engine.get(), (*urls)[0], samples[0]).ok());
}

TEST_F(EngineTest, PendingPunchesOfAKilledWorkerAreDoneByTheNext) {
  const std::vector<Sample> samples = MakeSamples(10, 100000);
  const auto killed = MakeEngine(1);
  const auto urls = killed->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  ASSERT_TRUE(killed->Delete(std::span(*urls).first(9)).ok());
  EXPECT_GE(DiskBytes(), 1000000u);
  host_.dead.insert(1);
  const auto next = MakeEngine(2);
  Reclaim(next.get());
  EXPECT_LE(DiskBytes(), 106496u);
  EXPECT_TRUE(ReadBack(next.get(), (*urls)[9], samples[9]).ok());
}

TEST_F(EngineTest, FlippedPayloadBitIsFoundSetAsideAndNotTriedAgain) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(3, 60000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  Damage((*urls)[1], 30000, 0x10);
  const absl::Status status = ReadBack(engine.get(), (*urls)[1], samples[1]);
  ASSERT_TRUE(absl::IsDataLoss(status));
  const std::string message(status.message());
  for (const char* part : {"at offset", "size", "payload checksum mismatch", "expected", "found"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
  EXPECT_THAT(message, HasSubstr(ParseUrl((*urls)[1])->path));
  EXPECT_TRUE(absl::IsNotFound(ReadBack(engine.get(), (*urls)[1], samples[1])));
  EXPECT_EQ(FilesNamed(std::string(kDamagedSuffix)), 1u);
  EXPECT_TRUE(ReadBack(engine.get(), (*urls)[0], samples[0]).ok());
  // When the object dies, what was set aside goes too.
  ASSERT_TRUE(engine->Delete(*urls).ok());
  EXPECT_EQ(FilesNamed(std::string(kDamagedSuffix)), 0u);
}

TEST_F(EngineTest, FlippedBitInALargeStreamedPayloadIsFoundAtItsEnd) {
  const auto engine = MakeEngine();
  const Sample sample = MakeSample(1, 6 << 20);
  const auto urls = engine->Spill(Views({sample}));
  ASSERT_TRUE(urls.ok());
  Damage((*urls)[0], 5 << 20, 0x01);
  EXPECT_TRUE(absl::IsDataLoss(ReadBack(engine.get(), (*urls)[0], sample)));
}

TEST_F(EngineTest, DamagedHeaderTrailerAndOwnerAddressAreFound) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(4, 100000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  Damage((*urls)[0], 8, 0x01);                                                      // metadata length
  Damage((*urls)[1], 30, 0x01);                                                     // owner address
  Damage((*urls)[2], static_cast<int64_t>(ParseUrl((*urls)[2])->object_bytes), 1);  // trailer magic
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(absl::IsDataLoss(ReadBack(engine.get(), (*urls)[i], samples[i]))) << i;
  EXPECT_TRUE(ReadBack(engine.get(), (*urls)[3], samples[3]).ok());
}

TEST_F(EngineTest, TruncatedFileIsDamageNotShortData) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(1, 100000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  fs::resize_file(ParseUrl((*urls)[0])->path, 60000);
  const absl::Status status = ReadBack(engine.get(), (*urls)[0], samples[0]);
  ASSERT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("truncated"));
}

TEST_F(EngineTest, DamageInLargeUnbufferedObjectsIsFoundWhereverItLies) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(4, 9 << 20);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  Damage((*urls)[0], 40, 0x01);                                                     // owner address
  Damage((*urls)[1], 8 << 20, 0x01);                                                // payload, third buffer
  Damage((*urls)[2], static_cast<int64_t>(ParseUrl((*urls)[2])->object_bytes), 1);  // trailer magic
  fs_.never_cached = true;
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(absl::IsDataLoss(ReadBack(engine.get(), (*urls)[i], samples[i]))) << i;
  EXPECT_TRUE(ReadBack(engine.get(), (*urls)[3], samples[3]).ok());
}

TEST_F(EngineTest, LargeUnbufferedObjectCutOffIsDamage) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(1, 9 << 20);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  fs_.never_cached = true;
  fs::resize_file(ParseUrl((*urls)[0])->path, 6000001);
  EXPECT_TRUE(absl::IsDataLoss(ReadBack(engine.get(), (*urls)[0], samples[0])));
}

// Runs each task at once and keeps it, as a thread does that is stopped before it lets go of its last one.
class KeepsTasks : public Sequential {
 public:
  void Start(std::function<void()> task) override {
    task();
    tasks_.push_back(std::move(task));
  }

 private:
  std::vector<std::function<void()>> tasks_;
};

TEST_F(EngineTest, ReadThatNobodyTookHoldsNoBufferAndNoFileOfAFileSystemThatIsGone) {
  const std::string path = root_ + "/a/file";
  std::ofstream(path) << std::string(8192, 'x');
  KeepsTasks parallel;
  IoBuffers buffers(&fs_);
  LargeReads reads(&fs_, &clock_, &parallel, &buffers);
  const auto file = std::make_shared<const OwnedFile>(*fs_.Open(path, /*writable=*/false));
  { const PendingWindow pending = reads.Start(file, 0, 4096); }
  EXPECT_EQ(buffers.idle_buffers(), 1U);
  EXPECT_EQ(file.use_count(), 1);
}

class EngineLargeTest : public EngineTest, public ::testing::WithParamInterface<int64_t> {};

TEST_P(EngineLargeTest, ObjectsInTurnReadEachByteAboutOnceAndAJumpReadsNothingAhead) {
  options_.max_segment_bytes = uint64_t{64} << 20;
  const int64_t object_bytes = GetParam();
  const auto samples = MakeSamples(5, static_cast<size_t>(object_bytes));
  const auto urls = *MakeEngine()->Spill(Views(samples));
  const std::vector<size_t> forward = Forward(urls);
  fs_.never_cached = true;
  const auto bytes_read = [&](const std::vector<size_t>& order) {
    const auto engine = MakeEngine();
    fs_.read_bytes = 0;
    for (size_t i : order) {
      const size_t object = forward[i];
      EXPECT_TRUE(ReadBack(engine.get(), urls[object], samples[object]).ok()) << i;
    }
    return fs_.read_bytes.load();
  };
  EXPECT_LT(bytes_read({0, 1, 2, 3, 4}), 5 * object_bytes * 101 / 100);
  EXPECT_LT(bytes_read({4, 2, 0}), 3 * object_bytes * 101 / 100);
}

INSTANTIATE_TEST_SUITE_P(Sizes, EngineLargeTest, ::testing::Values(3 << 20, 9 << 20));

TEST_F(EngineTest, HeadReadAheadOfALargeObjectIsNeverTakenForAnotherFiles) {
  options_.max_segment_bytes = uint64_t{64} << 20;
  fs_.never_cached = true;
  const auto engine = MakeEngine();
  for (uint32_t round = 0; round < 3; ++round) {
    const auto samples = MakeSamples(3, 5 << 20, round * 3);
    const auto urls = *engine->Spill(Views(samples));
    // The third one's head lies in memory when the segment and its inode go.
    const std::vector<size_t> forward = Forward(urls);
    for (size_t i : {forward[0], forward[1]}) EXPECT_TRUE(ReadBack(engine.get(), urls[i], samples[i]).ok());
    ASSERT_TRUE(engine->Delete(urls).ok());
    Reclaim(engine.get());
    const auto others = MakeSamples(3, 5 << 20, 100 + round * 3);
    const auto other_urls = *engine->Spill(Views(others));
    ExpectAllReadBack(engine.get(), other_urls, others);
  }
}

TEST_F(EngineTest, LargeObjectOpenedButNeverReadLeavesNothingBehind) {
  const auto samples = MakeSamples(2, 9 << 20);
  fs_.never_cached = true;
  auto engine = MakeEngine();
  const auto urls = *engine->Spill(Views(samples));
  for (size_t i : {0, 1}) EXPECT_TRUE(engine->Open(urls[i], samples[i].id).ok());
  engine.reset();
}

TEST_F(EngineTest, RestoresMovingForwardReadEachByteAboutOnce) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(120, 150000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  const std::vector<size_t> forward = Forward(*urls);
  fs_.never_cached = true;
  fs_.reads = 0;
  fs_.read_bytes = 0;
  for (size_t i : forward) EXPECT_TRUE(ReadBack(engine.get(), (*urls)[i], samples[i]).ok()) << i;
  EXPECT_LT(fs_.reads, 20);
  EXPECT_LT(fs_.read_bytes, 120 * 150000 * 5 / 4);
}

TEST_F(EngineTest, ScatteredRestoresReadLittleMoreThanIsWanted) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(120, 150000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  fs_.never_cached = true;
  fs_.read_bytes = 0;
  for (size_t i = 0; i < samples.size(); i += 10) EXPECT_TRUE(ReadBack(engine.get(), (*urls)[i], samples[i]).ok()) << i;
  EXPECT_LT(fs_.read_bytes, 12 * 150000 * 2);
}

TEST_F(EngineTest, ManyWorkersThatShareASegmentDoNotReadItOnceEach) {
  const auto engine = MakeEngine();
  std::vector<Sample> samples = MakeSamples(120, 150000);
  std::sort(samples.begin(), samples.end(), [](const Sample& a, const Sample& b) { return a.id < b.id; });
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  fs_.never_cached = true;
  fs_.read_bytes = 0;
  std::vector<std::unique_ptr<Engine>> workers;
  for (int64_t pid = 1; pid <= 8; ++pid) workers.push_back(MakeEngine(pid));
  for (size_t i = 0; i < samples.size(); ++i) {
    EXPECT_TRUE(ReadBack(workers[i % workers.size()].get(), (*urls)[i], samples[i]).ok()) << i;
  }
  EXPECT_LT(fs_.read_bytes, 120 * 150000 * 2);
}

TEST_F(EngineTest, WindowOfADeletedSegmentIsNeverTakenForAnotherFiles) {
  const auto engine = MakeEngine();
  for (uint32_t round = 0; round < 20; ++round) {
    const std::vector<Sample> samples = MakeSamples(8, 150000, round * 8);
    const auto urls = engine->Spill(Views(samples));
    ASSERT_TRUE(urls.ok());
    fs_.never_cached = true;
    ExpectAllReadBack(engine.get(), *urls, samples);
    ASSERT_TRUE(engine->Delete(*urls).ok());  // the kernel uses inodes of freed files again
  }
}

TEST_F(EngineTest, FileSystemWithoutUnbufferedReadsServesTheSame) {
  fs_.unbuffered = false;
  fs_.never_cached = true;
  const auto engine = MakeEngine();
  const std::vector<Sample> small = MakeSamples(20, 150000);
  const std::vector<Sample> large = MakeSamples(2, 9 << 20, 100);
  for (const auto& samples : {small, large}) {
    const auto urls = engine->Spill(Views(samples));
    ASSERT_TRUE(urls.ok());
    ExpectAllReadBack(engine.get(), *urls, samples);
  }
}

TEST_F(EngineTest, AnotherObjectAtTheUrlIsNotHandedOut) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(2, 100000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  EXPECT_TRUE(absl::IsDataLoss(engine->Open((*urls)[0], samples[1].id).status()));
}

}  // namespace
}  // namespace mantaray::spill
