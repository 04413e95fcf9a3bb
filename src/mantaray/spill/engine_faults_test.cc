// What production does to spilled data: disks that fail for a while, files that are lost, write-back errors, loads of
// scattered deletes. The names are the list of faults survived.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "mantaray/spill/posix_engine_fixture.h"

namespace mantaray::spill {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class EngineFaultsTest : public EngineTest {
 protected:
  EngineFaultsTest() { options_.state_directory = root_ + "/state/node"; }

  void Remove(const std::string& url) { fs::remove(ParseUrl(url)->path); }
};

TEST_F(EngineFaultsTest, PassingReadErrorIsNeitherLossNorDamage) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(2, 200000);
  const auto urls = *engine->Spill(Views(samples));
  fs_.never_cached = true;
  for (const char* error : {"Input/output error", "Stale file handle", "Connection timed out"}) {
    fs_.passing = absl::UnavailableError(error);
    for (int64_t at = 0; at < 6; ++at) {
      fs_.passing_after = at;
      fs_.passing_errors = 1000;
      const absl::Status failed = ReadBack(engine.get(), urls[0], samples[0]);
      fs_.passing_errors = 0;
      // A read that fails late may have been one that only reads ahead.
      EXPECT_TRUE(absl::IsUnavailable(failed) || (at > 1 && failed.ok())) << error << " from " << at << ": " << failed;
      EXPECT_EQ(FilesNamed(std::string(kDamagedSuffix)), 0u);
      EXPECT_TRUE(ReadBack(engine.get(), urls[0], samples[0]).ok()) << error << " from " << at;
    }
  }
  EXPECT_EQ(engine->Stats().damaged_objects, 0u);
  EXPECT_GT(engine->Stats().io_errors, 0u);
}

TEST_F(EngineFaultsTest, ReadThatFailsInMidStreamCanBeRepeated) {
  const auto engine = MakeEngine();
  const Sample sample = MakeSample(1, 9 << 20);
  const auto urls = *engine->Spill(Views({sample}));
  fs_.never_cached = true;
  for (int64_t at = 0; at < 4; ++at) {
    absl::StatusOr<ObjectReader> reader = engine->Open(urls[0], sample.id);
    ASSERT_TRUE(reader.ok());
    std::string payload(reader->payload_bytes(), '\0');
    fs_.passing_after = at;
    fs_.passing_errors = 1000;
    const absl::Status failed = reader->ReadPayload(payload, &parallel_);
    fs_.passing_errors = 0;
    // What had been read before the error may have been enough.
    EXPECT_TRUE(failed.ok() || absl::IsUnavailable(failed)) << failed;
    EXPECT_TRUE(reader->ReadPayload(payload, &parallel_).ok());
    EXPECT_TRUE(payload == sample.payload);
  }
}

TEST_F(EngineFaultsTest, DiskThatIsAwayIsNotALostFileAndItsDeletesAreDoneLater) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(2, 100000);
  const auto urls = *engine->Spill(Views(samples));
  fs_.vanished = root_;
  const absl::Status away = ReadBack(engine.get(), urls[0], samples[0]);
  EXPECT_TRUE(absl::IsUnavailable(away)) << away;
  EXPECT_THAT(std::string(away.message()), HasSubstr("spill directory " + root_ + "/a"));
  // The state directory lies on that disk, too, so the delete cannot be noted for after this worker's death.
  EXPECT_TRUE(absl::IsUnavailable(engine->Delete({&urls[1], 1})));
  EXPECT_EQ(engine->Stats().deferred_deletes, 1u);
  fs_.vanished.clear();
  EXPECT_TRUE(ReadBack(engine.get(), urls[0], samples[0]).ok());
  Reclaim(engine.get());
  fs::remove_all(root_ + "/state");
  EXPECT_LE(DiskBytes(), samples[0].view().record_bytes());
  EXPECT_EQ(engine->Stats().deferred_deletes, 0u);
}

TEST_F(EngineFaultsTest, DirectoryBelowAnotherDiskIsLeftAloneUntilItsOwnIsBack) {
  AddDirectory("b");
  const auto engine = MakeEngine();
  fs_.free_bytes[root_ + "/a"] = uint64_t{1} << 40;
  const std::vector<Sample> samples = MakeSamples(2, 100000);
  const auto first = *engine->Spill(Views(samples));
  EXPECT_THAT(first[0], HasSubstr("/a/"));
  fs_.devices[root_ + "/a"] = 4711;
  const auto meanwhile = *engine->Spill(Views(samples));
  EXPECT_THAT(meanwhile[0], HasSubstr("/b/"));
  EXPECT_THAT(engine->Unusable(), ::testing::SizeIs(0));  // it was tried out before
  fs_.devices.clear();
  EXPECT_THAT((*engine->Spill(Views(samples)))[0], HasSubstr("/a/"));
}

TEST_F(EngineFaultsTest, RemovedNodeDirectoryIsMadeAgain) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(3, 100000);
  const auto lost = *engine->Spill(Views(samples));
  fs::remove_all(root_ + "/a");
  EXPECT_TRUE(absl::IsNotFound(ReadBack(engine.get(), lost[0], samples[0])));
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok()) << urls.status();
  ExpectAllReadBack(engine.get(), *urls, samples);
}

TEST_F(EngineFaultsTest, NothingIsLeftInANodeDirectoryWhenNothingIsSpilled) {
  const auto engine = MakeEngine();
  for (int round = 0; round < 2; ++round) {
    const auto urls = *engine->Spill(Views(MakeSamples(3, 100000)));
    ASSERT_TRUE(engine->Delete(urls).ok());
    EXPECT_TRUE(fs::is_empty(root_ + "/a"));
  }
}

TEST_F(EngineFaultsTest, LostLinkNamesItsOwnerAndWhatIsRebuiltComesBackUnderItsUrl) {
  const std::vector<Sample> samples = MakeSamples(4, 100000);
  const std::vector<std::function<void(const std::string&)>> losses = {
      [this](const std::string& url) { Remove(url); },
      [](const std::string& url) { fs::remove_all(DirectoryOf(ParseUrl(url)->path)); },
      [this](const std::string&) { fs::remove_all(root_ + "/a"); },
  };
  for (size_t loss = 0; loss < losses.size(); ++loss) {
    const auto engine = MakeEngine(300 + static_cast<int64_t>(loss));
    const auto urls = *engine->Spill(Views(samples));
    losses[loss](urls[2]);
    EXPECT_TRUE(absl::IsNotFound(ReadBack(engine.get(), urls[2], samples[2])));
    // Another worker may be the one that is asked.
    const auto other = MakeEngine(200);
    const absl::StatusOr<std::string> owner = other->OwnerOf(urls[2]);
    ASSERT_TRUE(owner.ok()) << owner.status();
    EXPECT_EQ(*owner, samples[2].address);
    const absl::Status replaced = other->Replace(urls[2], samples[2].view());
    ASSERT_TRUE(replaced.ok()) << replaced;
    EXPECT_TRUE(ReadBack(engine.get(), urls[2], samples[2]).ok());
    ASSERT_TRUE(engine->Delete(urls).ok());
    EXPECT_TRUE(fs::is_empty(root_ + "/a"));
  }
}

TEST_F(EngineFaultsTest, OwnerOfADamagedObjectIsKnownAndItsBlocksComeBackWhenItIsPutBack) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(3, 100000);
  const auto urls = *engine->Spill(Views(samples));
  Damage(urls[1], 30, 0x01);  // in the owner's address
  EXPECT_TRUE(absl::IsDataLoss(ReadBack(engine.get(), urls[1], samples[1])));
  EXPECT_EQ(*engine->OwnerOf(urls[1]), samples[1].address);
  ASSERT_TRUE(engine->Replace(urls[1], samples[1].view()).ok());
  EXPECT_EQ(FilesNamed(std::string(kDamagedSuffix)), 0u);
  Reclaim(engine.get());
  ExpectAllReadBack(engine.get(), urls, samples);
  fs::remove_all(root_ + "/state");
  EXPECT_LE(DiskBytes(), 3 * samples[0].view().record_bytes());
  EXPECT_EQ(engine->Stats().repaired_objects, 1u);
}

TEST_F(EngineFaultsTest, DeletedDamagedObjectGivesItsBlocksBack) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(3, 100000);
  const auto urls = *engine->Spill(Views(samples));
  Damage(urls[1], 50000, 0x01);
  EXPECT_TRUE(absl::IsDataLoss(ReadBack(engine.get(), urls[1], samples[1])));
  ASSERT_TRUE(engine->Delete({&urls[1], 1}).ok());
  Reclaim(engine.get());
  fs::remove_all(root_ + "/state");
  EXPECT_LE(DiskBytes(), 2 * samples[0].view().record_bytes());
}

class EngineReplaceTest : public EngineFaultsTest, public ::testing::WithParamInterface<size_t> {};

TEST_P(EngineReplaceTest, RebuiltObjectOfAnotherSizeIsReadAndKeptWhole) {
  const auto engine = MakeEngine();
  std::vector<Sample> samples = MakeSamples(4, 150000);
  const auto urls = *engine->Spill(Views(samples));
  Remove(urls[3]);
  Sample rebuilt = MakeSample(99, GetParam());
  rebuilt.id = samples[3].id;
  rebuilt.address = samples[3].address;
  samples[3] = rebuilt;
  ASSERT_TRUE(engine->Replace(urls[3], rebuilt.view()).ok());
  // A worker that finds out what is dead from the names alone must not take the end of it for a gap.
  host_.dead.insert(100);
  const auto next = MakeEngine(101);
  Reclaim(next.get());
  ExpectAllReadBack(next.get(), urls, samples);
  fs_.never_cached = true;
  ExpectAllReadBack(next.get(), urls, samples);
  ASSERT_TRUE(next->Delete(urls).ok());
  EXPECT_TRUE(fs::is_empty(root_ + "/a"));
}

INSTANTIATE_TEST_SUITE_P(Sizes, EngineReplaceTest, ::testing::Values(0, 1000, 149999, 150001, 400000, 6 << 20));

TEST_F(EngineFaultsTest, FailedReplaceLeavesNothingBehind) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(2, 50000);
  const auto urls = *engine->Spill(Views(samples));
  Remove(urls[1]);
  bool succeeded = false;
  for (int64_t at = 0; !succeeded; ++at) {
    fs_.FailAt(at, absl::ResourceExhaustedError("No space left"), false);
    const absl::Status status = engine->Replace(urls[1], samples[1].view());
    succeeded = fs_.operations() <= at;
    fs_.FailAt(-1, absl::OkStatus(), false);
    if (status.ok()) {
      EXPECT_TRUE(ReadBack(engine.get(), urls[1], samples[1]).ok());
      Remove(urls[1]);
    } else {
      EXPECT_TRUE(absl::IsNotFound(ReadBack(engine.get(), urls[1], samples[1])));
    }
    ASSERT_LT(at, 100);
  }
  EXPECT_TRUE(ReadBack(engine.get(), urls[0], samples[0]).ok());
  host_.dead.insert(100);
  MakeEngine(101)->Tick();
  EXPECT_EQ(FilesNamed(".tmp"), 0u);
}

TEST_F(EngineFaultsTest, BytesThatTheDiskRefusedAreWrittenAgainAndNotDropped) {
  for (CacheMode mode : {CacheMode::kKeep, CacheMode::kDrop, CacheMode::kDirect}) {
    options_.cache_mode = mode;
    fs_.unbuffered = mode != CacheMode::kDirect;
    const auto engine = MakeEngine(100 + static_cast<int64_t>(mode));
    const std::vector<Sample> samples = MakeSamples(5, 500000);
    const auto urls = *engine->Spill(Views(samples));
    fs_.failing_writebacks = 3;
    fs_.writes = 0;
    Reclaim(engine.get());
    EXPECT_EQ(fs_.failing_writebacks, 0);
    EXPECT_EQ(engine->Stats().writeback_errors, 3u);
    EXPECT_GE(fs_.writes, 3);  // dirty again, so that the next write-back has something to write
    ExpectAllReadBack(engine.get(), urls, samples);
  }
}

TEST_F(EngineFaultsTest, BytesThatWaitForTheDiskAreBounded) {
  options_.cache_mode = CacheMode::kDrop;
  const auto engine = MakeEngine();
  Sample sample = MakeSample(1, 20 << 20);
  uint64_t written_bytes = 0;
  int writebacks = 0;
  fs_.before = [&](FaultyFileSystem::Operation operation, const std::string&) {
    if (operation == FaultyFileSystem::Operation::kWriteback) ++writebacks;
    return absl::OkStatus();
  };
  // Nothing ticks meanwhile, so only the next spill can wait for the disk.
  while (writebacks == 0) {
    sample.id = ObjectId::FromNumber(written_bytes >> 20);
    const auto urls = engine->Spill(Views({sample}));
    ASSERT_TRUE(urls.ok()) << urls.status();
    ASSERT_LE(written_bytes, uint64_t{300} << 20);
    written_bytes += sample.payload.size();
  }
  EXPECT_GT(written_bytes, uint64_t{100} << 20);
}

TEST_F(EngineFaultsTest, ErrorOnAnOpenFileNamesThePathOfTheFile) {
  const auto engine = MakeEngine();
  const auto urls = *engine->Spill(Views(MakeSamples(1, 5000)));
  const std::string path = ParseUrl(urls[0])->path;
  const OwnedFile file = *posix_.Open(path, /*writable=*/false);
  char byte = 0;
  std::vector<iovec> vectors{{&byte, 1}};
  EXPECT_THAT(std::string(posix_.Write(file.fd(), &vectors, 0).message()), HasSubstr(path));
  EXPECT_THAT(std::string(posix_.PunchHole(file.fd(), 0, 4096).message()), HasSubstr(path));
}

TEST_F(EngineFaultsTest, ShortWritesAreCompleted) {
  fs_.short_write_bytes = 4096 * 3;
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(5, 500000);
  ExpectAllReadBack(engine.get(), *engine->Spill(Views(samples)), samples);
}

TEST_F(EngineFaultsTest, FailedPunchIsTriedAgain) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(4, 100000);
  const auto urls = *engine->Spill(Views(samples));
  ASSERT_TRUE(engine->Delete(std::span(urls).first(3)).ok());
  fs_.failing_punches = 2;
  Reclaim(engine.get());
  fs::remove_all(root_ + "/state");
  EXPECT_LE(DiskBytes(), samples[0].view().record_bytes());
  EXPECT_EQ(engine->Stats().reclaimer.failed_punches, 2u);
}

TEST_F(EngineFaultsTest, DeleteWithoutDescriptorsLeftStillGivesTheBlocksBack) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(4, 100000);
  const auto urls = *engine->Spill(Views(samples));
  fs_.passing = absl::UnavailableError("open: Too many open files");
  fs_.passing_errors = 1;
  ASSERT_TRUE(engine->Delete({&urls[0], 1}).ok());
  fs_.passing_errors = 0;
  Reclaim(engine.get());
  fs::remove_all(root_ + "/state");
  EXPECT_LE(DiskBytes(), 3 * samples[0].view().record_bytes());
}

TEST_F(EngineFaultsTest, EveryBatchOfADeadWorkerIsDroppedWhenItsObjectsAreSpilledAgain) {
  const std::vector<Sample> first = MakeSamples(3, 50000);
  const std::vector<Sample> second = MakeSamples(3, 50000, 10);
  {
    const auto killed = MakeEngine(1);
    ASSERT_TRUE(killed->Spill(Views(first)).ok());
    ASSERT_TRUE(killed->Spill(Views(second)).ok());
  }
  host_.dead.insert(1);
  const auto next = MakeEngine(2);
  ASSERT_TRUE(next->Spill(Views(second)).ok());
  const auto urls = next->Spill(Views(first));
  ASSERT_TRUE(urls.ok());
  Reclaim(next.get());
  ExpectAllReadBack(next.get(), *urls, first);
  fs::remove_all(root_ + "/state");
  EXPECT_EQ(DiskBytes(), 6 * first[0].view().record_bytes());
}

TEST_F(EngineFaultsTest, DeadWorkerWhoseDirectoryCannotBeListedIsSweptLater) {
  const std::vector<Sample> samples = MakeSamples(4, 100000);
  std::vector<std::string> urls;
  {
    const auto killed = MakeEngine(1);
    urls = *killed->Spill(Views(samples));
    ASSERT_TRUE(killed->Delete(std::span(urls).first(3)).ok());
  }
  host_.dead.insert(1);
  const auto next = MakeEngine(2);
  fs_.passing = absl::UnavailableError("opendir: Too many open files");
  fs_.passing_errors = 5;
  Reclaim(next.get());
  fs_.passing_errors = 0;
  Reclaim(next.get());
  fs::remove_all(root_ + "/state");
  EXPECT_LE(DiskBytes(), samples[0].view().record_bytes());
}

class EngineScatteredTest : public EngineFaultsTest, public ::testing::WithParamInterface<bool> {};

// A shuffle: objects die one from each segment in turn. Time is virtual, so what is judged is the engine's own delay.
TEST_P(EngineScatteredTest, DiskFollowsLiveBytesDuringScatteredDeletesOverAThousandSegments) {
  constexpr size_t kSegments = 1000;
  constexpr size_t kPerSegment = 6;
  constexpr int64_t kLoadMs = 30000;
  constexpr int64_t kTickMs = 500;
  fs_.fences = GetParam();
  const std::vector<Sample> samples = MakeSamples(kSegments * kPerSegment, 3500);
  const uint64_t record_bytes = RecordBytes(samples[0].view().lengths().object_bytes());
  options_.max_segment_bytes = kPerSegment * record_bytes;
  const auto engine = MakeEngine();
  std::vector<std::string> urls = *engine->Spill(Views(samples));
  // One from each segment in turn.
  std::map<ino_t, std::vector<size_t>> segments;
  for (size_t i = 0; i < urls.size(); ++i) {
    struct stat data {};
    ASSERT_EQ(stat(ParseUrl(urls[i])->path.c_str(), &data), 0);
    segments[data.st_ino].push_back(i);
  }
  ASSERT_GE(segments.size(), kSegments);
  std::vector<size_t> order;
  for (size_t turn = 0; turn < kPerSegment; ++turn) {
    for (const auto& [inode, objects] : segments) {
      if (turn < objects.size()) order.push_back(objects[turn]);
    }
  }
  order.resize(order.size() * 4 / 5);
  const auto blocks = [&] {
    uint64_t total = 0;
    for (const auto& [inode, objects] : segments) {
      struct stat data {};
      if (stat(ParseUrl(urls[objects.back()])->path.c_str(), &data) == 0) {
        total += static_cast<uint64_t>(data.st_blocks) * 512;
      }
    }
    return total;
  };
  uint64_t live = samples.size() * record_bytes;
  std::deque<uint64_t> recently_dead;  // bytes that died in each of the last ticks
  size_t next = 0;
  for (int64_t now_ms = 0; now_ms < kLoadMs; now_ms += kTickMs) {
    const size_t until = order.size() * static_cast<size_t>(now_ms + kTickMs) / kLoadMs;
    recently_dead.push_back((until - next) * record_bytes);
    for (; next < until; ++next) ASSERT_TRUE(engine->Delete({&urls[order[next]], 1}).ok());
    live -= recently_dead.back();
    if (recently_dead.size() > 5000 / kTickMs) recently_dead.pop_front();
    clock_.AdvanceMs(kTickMs);
    engine->Tick();
    if (now_ms % 2000 != 0) continue;
    // With the grace time what is compared is the average over five seconds, in which live bytes were larger by half
    // of what died.
    uint64_t died = 0;
    for (uint64_t bytes : recently_dead) died += bytes;
    const uint64_t compared = fs_.fences ? live : live + died / 2;
    EXPECT_LE(blocks(), compared * 11 / 10) << "after " << now_ms << " ms";
  }
  Reclaim(engine.get());
  // A file system may keep a block a file for the map of its holes.
  EXPECT_LE(blocks(), live * 105 / 100 + segments.size() * kBlockBytes);
}

INSTANTIATE_TEST_SUITE_P(FencesOrGraceTime, EngineScatteredTest, ::testing::Bool());

TEST_F(EngineFaultsTest, BlocksOfADeletedObjectComeBackAtTheNextTickIfNobodyReadsItsSegment) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(4, 100000);
  const auto urls = *engine->Spill(Views(samples));
  ASSERT_TRUE(engine->Delete(std::span(urls).first(3)).ok());
  engine->Tick();
  fs::remove_all(root_ + "/state");
  EXPECT_LE(DiskBytes(), samples[3].view().record_bytes());
  EXPECT_EQ(engine->CloseDelayMs(), 0);
  EXPECT_TRUE(ReadBack(engine.get(), urls[3], samples[3]).ok());
}

TEST_F(EngineFaultsTest, RayletThatReadsForMinutesNeverSeesAHole) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(2, 100000);
  const auto urls = *engine->Spill(Views(samples));
  const ParsedUrl url = *ParseUrl(urls[0]);
  {
    const OwnedFile raylets = *posix_.Open(url.path, /*writable=*/false);
    const FileInfo info = *posix_.Stat(raylets.fd());
    host_.files_of_raylet = OpenFiles{{info.device, info.inode}};
    ASSERT_TRUE(engine->Delete({&urls[0], 1}).ok());
    for (int i = 0; i < 5; ++i) Reclaim(engine.get());
    std::string record(samples[0].view().record_bytes(), '\0');
    ASSERT_TRUE(posix_.Read(raylets.fd(), record.data(), record.size(), url.offset).ok());
    EXPECT_THAT(record, HasSubstr(samples[0].payload));
    EXPECT_GT(engine->Stats().reclaimer.delayed_punches, 0u);
  }
  // Another process has it open still, which is no reason to wait.
  const OwnedFile others = *posix_.Open(ParseUrl(urls[1])->path, /*writable=*/false);
  host_.files_of_raylet = OpenFiles{};
  Reclaim(engine.get());
  fs::remove_all(root_ + "/state");
  EXPECT_LE(DiskBytes(), samples[1].view().record_bytes());
}

TEST_F(EngineFaultsTest, RayletThatCannotBeLookedAtHasTheGraceTime) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(2, 100000);
  const auto urls = *engine->Spill(Views(samples));
  const OwnedFile raylets = *posix_.Open(ParseUrl(urls[0])->path, /*writable=*/false);
  const uint64_t before = DiskBytes();
  ASSERT_TRUE(engine->Delete({&urls[0], 1}).ok());
  for (int64_t waited_ms = 0; waited_ms < options_.reclaimer.punch_delay_ms; waited_ms += 100) {
    engine->Tick();
    ASSERT_EQ(engine->Stats().reclaimer.punched_bytes, 0u) << "after " << waited_ms << " ms";
    clock_.AdvanceMs(100);
  }
  engine->Tick();
  EXPECT_LT(DiskBytes(), before);
}

TEST_F(EngineFaultsTest, WhoeverOpensAFencedFileWaitsUntilItIsNoLongerFenced) {
  const auto engine = MakeEngine();
  const auto urls = *engine->Spill(Views(MakeSamples(1, 100000)));
  const std::string path = ParseUrl(urls[0])->path;
  {
    const OwnedFile reader = *posix_.Open(path, /*writable=*/false);
    const OwnedFile file = *posix_.Open(path, /*writable=*/true);
    EXPECT_TRUE(absl::IsUnavailable(posix_.Fence(file.fd())));
  }
  const OwnedFile file = *posix_.Open(path, /*writable=*/true);
  ASSERT_TRUE(posix_.Fence(file.fd()).ok());
  std::atomic<bool> is_open = false;
  std::thread opener([&] {
    const OwnedFile reader = *posix_.Open(path, /*writable=*/false);
    is_open = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(is_open);  // and the signal of the kernel has not ended this process
  posix_.Unfence(file.fd());
  opener.join();
  EXPECT_TRUE(is_open);
}

TEST_F(EngineFaultsTest, SegmentWithVeryManyGapsDoesNotKeepOthersFromTheirBlocks) {
  options_.reclaimer.max_pending_ranges = 200;
  const auto engine = MakeEngine();
  const std::vector<Sample> many = MakeSamples(2000, 3500);
  const std::vector<Sample> few = MakeSamples(2, 3 << 20, 5000);
  const auto gaps = *engine->Spill(Views(many));
  const auto others = *engine->Spill(Views(few));
  const std::vector<size_t> forward = Forward(gaps);
  for (size_t i = 0; i < forward.size(); i += 2) ASSERT_TRUE(engine->Delete({&gaps[forward[i]], 1}).ok());
  const uint64_t before = DiskBytes();
  ASSERT_TRUE(engine->Delete({&others[0], 1}).ok());
  Reclaim(engine.get());
  EXPECT_LE(DiskBytes(), before - (3 << 20));
  for (int i = 0; i < 10; ++i) Reclaim(engine.get());
  EXPECT_LE(DiskBytes(), 1050 * RecordBytes(3700) + (4 << 20));
  for (size_t i = 1; i < forward.size(); i += 2) {
    EXPECT_TRUE(ReadBack(engine.get(), gaps[forward[i]], many[forward[i]]).ok());
  }
}

}  // namespace
}  // namespace mantaray::spill
