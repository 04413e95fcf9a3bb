// Bugs that the explorer found, one short test each, named after the damage. In memory and in virtual time.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "mantaray/spill/memory_file_system.h"
#include "mantaray/spill/posix_engine_fixture.h"

namespace mantaray::spill {
namespace {

using Operation = FaultyFileSystem::Operation;

class EngineExploredTest : public ::testing::Test {
 protected:
  EngineExploredTest() {
    disk_ = memory_.AddDisk("/disk", uint64_t{1} << 30);
    memory_.AddDisk("/state", uint64_t{1} << 30);
    EXPECT_TRUE(memory_.MakeDirectory("/disk/node").ok());
    options_.node_directories = {"/disk/node"};
    options_.devices = {disk_->device};
    options_.state_directory = "/state/node";
    fs_.on_writeback_failure = [this](int fd, uint64_t offset, uint64_t size_bytes) {
      memory_.FailWriteback(fd, offset, size_bytes);
    };
  }

  std::unique_ptr<Engine> MakeEngine(int64_t pid) {
    EngineOptions options = options_;
    options.self = {pid, 1};
    return std::make_unique<Engine>(&fs_, &clock_, &host_, &parallel_, options);
  }

  // Ends a worker as a kill does.
  void Kill(int64_t pid, std::unique_ptr<Engine>* engine) {
    engine->reset();
    host_.dead.insert(pid);
  }

  void Reclaim(Engine* engine) {
    for (int i = 0; i < 10; ++i) {
      clock_.AdvanceMs(5000);
      engine->Tick();
    }
  }

  // Lets the next `count` operations of a kind fail, on paths that contain `part`.
  void FailNext(Operation operation, int count, const std::string& part = "") {
    fs_.before = [operation, part, left = count](Operation now, const std::string& path) mutable {
      if (now != operation || !absl::StrContains(path, part) || left == 0) return absl::OkStatus();
      --left;
      return absl::UnavailableError("Input/output error");
    };
  }

  // Another file system appears where the disk was.
  void Unmount() {
    fs_.vanished = "/disk/";
    fs_.devices["/disk"] = disk_->device + 99;
  }
  void Mount() {
    fs_.vanished.clear();
    fs_.devices.clear();
  }

  absl::Status ReadBack(Engine* engine, const std::string& url, const Sample& sample) {
    absl::StatusOr<ObjectReader> reader = engine->Open(url, sample.id);
    if (!reader.ok()) return reader.status();
    std::string payload(reader->payload_bytes(), '\0');
    if (absl::Status status = reader->ReadPayload(payload, &parallel_); !status.ok()) return status;
    EXPECT_TRUE(payload == sample.payload);
    return absl::OkStatus();
  }

  void Flip(const std::string& url) {
    const ParsedUrl parsed = *ParseUrl(url);
    const auto file = memory_.Open(parsed.path, /*writable=*/true);
    char byte = 0;
    ASSERT_TRUE(memory_.Read(file->fd(), &byte, 1, parsed.offset + 500).ok());
    byte = static_cast<char>(byte ^ 1);
    std::vector<iovec> vectors{{&byte, 1}};
    ASSERT_TRUE(memory_.SetDirect(file->fd()).ok());
    ASSERT_TRUE(memory_.Write(file->fd(), &vectors, parsed.offset + 500).ok());
  }

  // Files below the spill directory whose names contain `part`.
  size_t Files(const std::string& part = "") const {
    size_t count = 0;
    for (const MemoryFileSystem::Name& name : memory_.Tree("/disk/node")) {
      if (!name.is_directory && absl::StrContains(name.path, part)) ++count;
    }
    return count;
  }
  uint64_t DiskBytes() const { return disk_->used_blocks * MemoryFileSystem::kBlock; }

  MemoryFileSystem memory_;
  FaultyFileSystem fs_{&memory_};
  MemoryFileSystem::Disk* disk_ = nullptr;
  VirtualClock clock_;
  Sequential parallel_;
  FakeHost host_;
  EngineOptions options_;
};

TEST_F(EngineExploredTest, BytesThatTheDiskRefusedSurviveARewriteThatFailsToo) {
  options_.cache_mode = CacheMode::kDrop;
  const auto engine = MakeEngine(1);
  const Sample sample = MakeSample(1, 50000);
  const auto urls = *engine->Spill(Views({sample}));
  fs_.failing_writebacks = 1;
  FailNext(Operation::kWrite, 2);
  Reclaim(engine.get());
  memory_.EvictAll();
  EXPECT_TRUE(ReadBack(engine.get(), urls[0], sample).ok());
  EXPECT_EQ(engine->Stats().writeback_errors, 1u);
}

TEST_F(EngineExploredTest, HolesThatWereWrittenOverWithBytesThatTheDiskRefusedAreGivenBackAgain) {
  options_.cache_mode = CacheMode::kKeep;
  const auto engine = MakeEngine(1);
  const std::vector<Sample> samples = MakeSamples(10, 3500);
  const auto urls = *engine->Spill(Views(samples));
  // Another worker punches before the disk refuses.
  const auto other = MakeEngine(2);
  ASSERT_TRUE(other->Delete(std::span(urls).first(9)).ok());
  Reclaim(other.get());
  ASSERT_EQ(DiskBytes(), samples[9].view().record_bytes());
  fs_.failing_writebacks = 3;
  Reclaim(engine.get());
  EXPECT_EQ(engine->Stats().writeback_errors, 3u);
  EXPECT_EQ(DiskBytes(), samples[9].view().record_bytes());
  EXPECT_TRUE(ReadBack(engine.get(), urls[9], samples[9]).ok());
}

TEST_F(EngineExploredTest, HoleBesideARebuiltObjectDoesNotKeepOtherSegmentsFromTheirBlocks) {
  options_.reclaimer.max_pending_ranges = 1;
  options_.max_segment_bytes = 24 << 10;
  const auto engine = MakeEngine(1);
  const std::vector<Sample> samples = MakeSamples(10, 3500);
  const auto urls = *engine->Spill(Views(samples));
  for (size_t i = 0; i < urls.size(); i += 2) {
    if (ParseUrl(urls[i])->offset == 0) continue;
    Sample larger = samples[i];
    larger.payload += std::string(9000, 'x');
    Flip(urls[i]);
    ASSERT_TRUE(engine->Replace(urls[i], larger.view()).ok());
  }
  const uint64_t record_bytes = samples[0].view().record_bytes();
  const uint64_t before = DiskBytes();
  for (size_t i = 1; i < urls.size(); i += 2) ASSERT_TRUE(engine->Delete({&urls[i], 1}).ok());
  for (int i = 0; i < 10; ++i) Reclaim(engine.get());
  EXPECT_LE(DiskBytes(), before - 5 * record_bytes);
}

TEST_F(EngineExploredTest, IoErrorWhileARebuiltObjectIsOpenedDoesNotSetItAside) {
  const auto engine = MakeEngine(1);
  const Sample sample = MakeSample(1, 3500);
  const auto urls = *engine->Spill(Views({sample}));
  Sample rebuilt = sample;
  rebuilt.payload += "and more";
  Flip(urls[0]);
  ASSERT_TRUE(engine->Replace(urls[0], rebuilt.view()).ok());
  for (int at = 0; at < 12; ++at) {
    fs_.passing_after = at;
    fs_.passing_errors = 1000;
    const absl::Status failed = ReadBack(engine.get(), urls[0], rebuilt);
    fs_.passing_errors = 0;
    EXPECT_TRUE(failed.ok() || absl::IsUnavailable(failed)) << "from " << at << ": " << failed;
    ASSERT_EQ(Files(std::string(kDamagedSuffix)), 0u) << "from " << at;
  }
  EXPECT_TRUE(ReadBack(engine.get(), urls[0], rebuilt).ok());
}

TEST_F(EngineExploredTest, CopyThatIsPutBackWhileTheDamagedOneIsSetAsideStays) {
  const auto engine = MakeEngine(1);
  const auto other = MakeEngine(2);
  const std::vector<Sample> samples = MakeSamples(2, 3500);
  const auto urls = *engine->Spill(Views(samples));
  Flip(urls[0]);
  bool is_replaced = false;
  fs_.before = [&](Operation operation, const std::string& path) {
    if (operation == Operation::kRename && path == ParseUrl(urls[0])->path && !std::exchange(is_replaced, true)) {
      EXPECT_TRUE(other->Replace(urls[0], samples[0].view()).ok());
    }
    return absl::OkStatus();
  };
  EXPECT_FALSE(ReadBack(engine.get(), urls[0], samples[0]).ok());
  EXPECT_TRUE(is_replaced);
  EXPECT_TRUE(ReadBack(engine.get(), urls[0], samples[0]).ok());
}

TEST_F(EngineExploredTest, BlocksAreGivenBackAlthoughADeleteOvertakesTheSearchForThem) {
  const auto engine = MakeEngine(1);
  const auto other = MakeEngine(2);
  const auto urls = *engine->Spill(Views(MakeSamples(3, 3500)));
  // So that which blocks are dead has to be looked up.
  FailNext(Operation::kStat, 1);
  ASSERT_TRUE(engine->Delete(std::vector{urls[0]}).ok());
  bool is_overtaken = false;
  fs_.before = [&](Operation operation, const std::string& path) {
    for (const std::string& url : {urls[1], urls[2]}) {
      if (operation != Operation::kOpen || path != ParseUrl(url)->path || std::exchange(is_overtaken, true)) continue;
      EXPECT_TRUE(other->Delete(std::vector{url}).ok());
    }
    return absl::OkStatus();
  };
  Reclaim(engine.get());
  Reclaim(other.get());
  EXPECT_TRUE(is_overtaken);
  EXPECT_EQ(Files(), 1u);
  EXPECT_EQ(disk_->used_blocks, 1u);
}

TEST_F(EngineExploredTest, RebuiltCopyThatWasSetAsideByMistakeAndNotPutBackIsNotLost) {
  const auto engine = MakeEngine(1);
  const auto other = MakeEngine(2);
  const Sample sample = MakeSample(1, 3500);
  for (const char* more : {"", "and more"}) {
    const auto urls = *engine->Spill(Views({sample}));
    Sample rebuilt = sample;
    rebuilt.payload += more;
    Flip(urls[0]);
    bool is_replaced = false;
    fs_.before = [&](Operation operation, const std::string& path) {
      if (operation != Operation::kRename) return absl::OkStatus();
      if (path == ParseUrl(urls[0])->path && !std::exchange(is_replaced, true)) {
        EXPECT_TRUE(other->Replace(urls[0], rebuilt.view()).ok());
      }
      const bool puts_back = absl::EndsWith(path, kDamagedSuffix);
      return puts_back ? absl::UnavailableError("Input/output error") : absl::OkStatus();
    };
    EXPECT_TRUE(absl::IsUnavailable(ReadBack(engine.get(), urls[0], sample)));
    EXPECT_TRUE(is_replaced);
    fs_.before = nullptr;
    EXPECT_EQ(Files(std::string(kDamagedSuffix)), 1u);
    EXPECT_TRUE(ReadBack(engine.get(), urls[0], rebuilt).ok());
    EXPECT_EQ(Files(std::string(kDamagedSuffix)), 0u);
    EXPECT_TRUE(engine->Delete(urls).ok());
  }
}

TEST_F(EngineExploredTest, FirstCopyOfADeadWorkerThatCannotBeRemovedAtOnceIsRemovedLater) {
  const std::vector<Sample> samples = MakeSamples(3, 3500);
  auto killed = MakeEngine(1);
  ASSERT_TRUE(killed->Spill(Views(samples)).ok());
  Kill(1, &killed);
  const auto engine = MakeEngine(2);
  FailNext(Operation::kUnlink, 3, "w1-1/");
  ASSERT_TRUE(engine->Spill(Views(samples)).ok());
  EXPECT_GT(Files("w1-1/"), 0u);
  Reclaim(engine.get());
  EXPECT_EQ(Files("w1-1/"), 0u);
  EXPECT_EQ(Files("w2-1/"), 3u);
}

TEST_F(EngineExploredTest, FirstCopiesOfTwoDeadWorkersGoEvenIfTheirDeathsAreSeenLate) {
  const std::vector<Sample> samples = MakeSamples(3, 3500);
  auto first = MakeEngine(1);
  auto second = MakeEngine(2);
  ASSERT_TRUE(first->Spill(Views(samples)).ok());
  ASSERT_TRUE(second->Spill(Views(samples)).ok());
  const auto engine = MakeEngine(3);
  const auto urls = *engine->Spill(Views(samples));
  Kill(1, &first);
  Kill(2, &second);
  Reclaim(engine.get());
  EXPECT_EQ(Files(), 3u);
  for (size_t i = 0; i < urls.size(); ++i) EXPECT_TRUE(ReadBack(engine.get(), urls[i], samples[i]).ok());
}

TEST_F(EngineExploredTest, DamagedCopyThatCannotBeRemovedAtOnceIsRemovedLater) {
  const auto engine = MakeEngine(1);
  const std::vector<Sample> samples = MakeSamples(2, 3500);
  const auto urls = *engine->Spill(Views(samples));
  Flip(urls[0]);
  ASSERT_TRUE(absl::IsDataLoss(ReadBack(engine.get(), urls[0], samples[0])));
  ASSERT_EQ(Files(std::string(kDamagedSuffix)), 1u);
  FailNext(Operation::kUnlink, 1, std::string(kDamagedSuffix));
  ASSERT_TRUE(engine->Replace(urls[0], samples[0].view()).ok());
  EXPECT_EQ(Files(std::string(kDamagedSuffix)), 1u);
  Reclaim(engine.get());
  EXPECT_EQ(Files(std::string(kDamagedSuffix)), 0u);
  EXPECT_EQ(DiskBytes(), 2 * samples[0].view().record_bytes());
}

TEST_F(EngineExploredTest, DeletesThatWaitForADiskAreDoneAlthoughTheirWorkerDied) {
  const auto owner = MakeEngine(1);
  const auto urls = *owner->Spill(Views(MakeSamples(3, 3500)));
  auto deleter = MakeEngine(2);
  Unmount();
  ASSERT_TRUE(deleter->Delete(urls).ok());
  Kill(2, &deleter);
  Mount();
  const auto next = MakeEngine(3);
  Reclaim(next.get());
  EXPECT_EQ(Files(), 0u);
  EXPECT_EQ(DiskBytes(), 0u);
}

TEST_F(EngineExploredTest, DeleteThatTheJournalDoesNotHoldIsNotReportedAsTaken) {
  const auto owner = MakeEngine(1);
  const auto urls = *owner->Spill(Views(MakeSamples(1, 3500)));
  auto deleter = MakeEngine(2);
  bool may_write = false;
  fs_.before = [&](Operation operation, const std::string&) {
    const bool fails = operation == Operation::kUnlink || (operation == Operation::kWrite && !may_write);
    return fails ? absl::UnavailableError("Input/output error") : absl::OkStatus();
  };
  for (int attempt = 0; attempt < 2; ++attempt) EXPECT_TRUE(absl::IsUnavailable(deleter->Delete(urls)));
  may_write = true;
  EXPECT_TRUE(deleter->Delete(urls).ok());
  Kill(2, &deleter);
  fs_.before = nullptr;
  Reclaim(owner.get());
  EXPECT_EQ(Files(), 0u);
}

TEST_F(EngineExploredTest, WhatATrialCouldNotRemoveIsNotTakenForAFileSystemWithoutLinks) {
  const auto engine = MakeEngine(1);
  const std::vector<Sample> samples = MakeSamples(2, 3500);
  int punches_to_fail = 1;
  fs_.before = [&](Operation operation, const std::string&) {
    const bool fails = operation == Operation::kUnlink || (operation == Operation::kPunch && punches_to_fail-- > 0);
    return fails ? absl::UnavailableError("Input/output error") : absl::OkStatus();
  };
  EXPECT_FALSE(engine->Spill(Views(samples)).ok());
  EXPECT_FALSE(engine->Spill(Views(samples)).ok());
  fs_.before = nullptr;
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok()) << urls.status();
  for (const std::string& url : *urls) EXPECT_TRUE(ParseLinkName(FileOf(ParseUrl(url)->path)).has_value()) << url;
}

TEST_F(EngineExploredTest, DiskThatIsFullOrOutOfReachAtTheStartIsNotTakenForOneWithoutLinksOrHoles) {
  const std::vector<absl::Status> errors = {
      absl::ResourceExhaustedError("No space left on device"), absl::ResourceExhaustedError("Disk quota exceeded"),
      absl::UnavailableError("Too many open files"), absl::PermissionDeniedError("Read-only file system")};
  const std::vector<Sample> samples = MakeSamples(2, 3500);
  int64_t pid = 1;
  for (const absl::Status& error : errors) {
    for (Operation operation : {Operation::kMakeDirectory, Operation::kCreate, Operation::kAllocate, Operation::kWrite,
                                Operation::kLink, Operation::kPunch, Operation::kOpen, Operation::kStat}) {
      // EPERM, which has the same code as EROFS, is how a file system without links or holes says so.
      const bool tells_abilities = operation == Operation::kLink || operation == Operation::kPunch;
      if (absl::IsPermissionDenied(error) && tells_abilities) continue;
      const auto engine = MakeEngine(pid++);
      fs_.before = [&](Operation now, const std::string&) { return now == operation ? error : absl::OkStatus(); };
      const bool spilled_at_once = engine->Spill(Views(samples)).ok();
      fs_.before = nullptr;
      const auto urls = engine->Spill(Views(samples));
      ASSERT_TRUE(urls.ok()) << error << " at " << static_cast<int>(operation) << ": " << urls.status();
      for (const std::string& url : *urls) {
        EXPECT_TRUE(ParseLinkName(FileOf(ParseUrl(url)->path)).has_value())
            << error << " at " << static_cast<int>(operation) << (spilled_at_once ? ", spilled" : "") << ": " << url;
      }
    }
  }
}

TEST_F(EngineExploredTest, PunchesInALivingWorkersSegmentAreDoneAlthoughTheirWorkerDied) {
  const std::vector<Sample> samples = MakeSamples(4, 3500);
  const auto owner = MakeEngine(1);
  const auto urls = *owner->Spill(Views(samples));
  auto deleter = MakeEngine(2);
  ASSERT_TRUE(deleter->Delete(std::span(urls).first(3)).ok());
  Kill(2, &deleter);
  Reclaim(owner.get());
  EXPECT_EQ(DiskBytes(), samples[3].view().record_bytes());
}

TEST_F(EngineExploredTest, SegmentThatCouldNotBeOpenedBeforeItsWorkerClosedIsLookedThroughByTheNext) {
  const std::vector<Sample> samples = MakeSamples(4, 3500);
  const auto owner = MakeEngine(1);
  const auto urls = *owner->Spill(Views(samples));
  auto deleter = MakeEngine(2);
  FailNext(Operation::kOpen, 1);
  ASSERT_TRUE(deleter->Delete({&urls[0], 1}).ok());
  clock_.AdvanceMs(deleter->CloseDelayMs());
  deleter->Close();
  Kill(2, &deleter);
  Reclaim(owner.get());
  EXPECT_EQ(DiskBytes(), 3 * samples[0].view().record_bytes());
}

TEST_F(EngineExploredTest, PunchesOfADiskThatIsAwayAreDoneWhenItIsBack) {
  options_.reclaimer.max_pending_files = 0;  // segments are found by the listing of their batch
  const std::vector<Sample> samples = MakeSamples(4, 3500);
  const auto engine = MakeEngine(1);
  const auto urls = *engine->Spill(Views(samples));
  ASSERT_TRUE(engine->Delete(std::span(urls).first(3)).ok());
  Unmount();
  Reclaim(engine.get());
  Mount();
  for (int i = 0; i < 5; ++i) Reclaim(engine.get());
  EXPECT_EQ(DiskBytes(), samples[3].view().record_bytes());
}

TEST_F(EngineExploredTest, GapsOfManyBatchesArePunchedInOneTickAlthoughFewMayWait) {
  options_.reclaimer.max_pending_ranges = 1;  // the others are found again by a look through their batch
  const auto engine = MakeEngine(1);
  std::vector<std::string> kept;
  for (uint32_t batch = 0; batch < 12; ++batch) {
    const std::vector<Sample> samples = MakeSamples(2, 3500, 10 * batch);
    const auto urls = *engine->Spill(Views(samples));
    kept.push_back(urls[1]);
    ASSERT_TRUE(engine->Delete({&urls[0], 1}).ok());
  }
  clock_.AdvanceMs(5000);
  engine->Tick();
  EXPECT_EQ(DiskBytes(), kept.size() * MakeSample(0, 3500).view().record_bytes());
}

}  // namespace
}  // namespace mantaray::spill
