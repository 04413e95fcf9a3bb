// Tests of spilling on real files: what is written and where, full and vanished directories, crashes. The names are the
// list of damages.

#include "mantaray/spill/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "mantaray/spill/faulty_file_system.h"
#include "mantaray/spill/posix_engine_fixture.h"

namespace mantaray::spill {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST_F(EngineTest, EverySizeFromNothingToLargeComesBackIdentical) {
  const auto engine = MakeEngine();
  std::vector<Sample> samples;
  uint32_t number = 0;
  for (size_t size :
       {0, 1, 3900, 3999, 4000, 4096, 100000, 102401, 150000, 1 << 20, (4 << 20) - 1000, (4 << 20) + 1, 9 << 20}) {
    samples.push_back(MakeSample(number++, size));
  }
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok()) << urls.status();
  ASSERT_EQ(urls->size(), samples.size());
  ExpectAllReadBack(engine.get(), *urls, samples);
}

TEST_F(EngineTest, EveryCacheModeWritesTheSame) {
  for (CacheMode mode : {CacheMode::kKeep, CacheMode::kDrop, CacheMode::kDirect}) {
    options_.cache_mode = mode;
    const auto engine = MakeEngine(200 + static_cast<int64_t>(mode));
    const std::vector<Sample> samples = MakeSamples(30, 500000);
    const auto urls = engine->Spill(Views(samples));
    ASSERT_TRUE(urls.ok()) << urls.status();
    ExpectAllReadBack(engine.get(), *urls, samples);
    engine->Tick();
    ExpectAllReadBack(engine.get(), *urls, samples);
  }
}

TEST_F(EngineTest, SegmentsStayInThePageCacheAsLongAsTheCallerWantsIt) {
  options_.cache_mode = CacheMode::kDirect;
  const auto engine = MakeEngine();
  for (bool keep : {false, true, false}) {
    engine->KeepInCache(keep);
    const std::vector<Sample> samples = MakeSamples(4, 500000);
    const auto urls = engine->Spill(Views(samples));
    ASSERT_TRUE(urls.ok()) << urls.status();
    for (const std::string& url : *urls) {
      const ParsedUrl parsed = *ParseUrl(url);
      const absl::StatusOr<OwnedFile> file = fs_.Open(parsed.path, /*writable=*/true);
      ASSERT_TRUE(file.ok());
      if (!fs_.SetDirect(file->fd()).ok()) GTEST_SKIP() << "this file system has no direct I/O";
      EXPECT_EQ(fs_.IsCached(file->fd(), parsed.offset + parsed.object_bytes / 2), keep);
    }
    ExpectAllReadBack(engine.get(), *urls, samples);
  }
}

// What the raylet does by itself for a remote node: header and payload straight from the path in the URL.
TEST_F(EngineTest, ObjectLiesInRaysOwnLayoutAtTheUrlsOffset) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(3, 5000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  const ParsedUrl url = *ParseUrl((*urls)[2]);
  std::ifstream file(url.path, std::ios::binary);
  file.seekg(static_cast<int64_t>(url.offset));
  std::string bytes(url.object_bytes, '\0');
  file.read(bytes.data(), static_cast<int64_t>(bytes.size()));
  const auto lengths =
      EncodeLengths({samples[2].address.size(), samples[2].metadata.size(), samples[2].payload.size()});
  EXPECT_EQ(bytes, std::string(lengths.data(), lengths.size()) + samples[2].address + samples[2].metadata +
                       samples[2].payload);
}

TEST_F(EngineTest, SegmentsNeverExceedTheBoundAndLargeObjectsGoAlone) {
  options_.max_segment_bytes = 1 << 20;
  const auto engine = MakeEngine();
  std::vector<Sample> samples = MakeSamples(20, 150000);
  samples.insert(samples.begin() + 3, MakeSample(99, 3 << 20));
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  std::map<ino_t, std::pair<uint64_t, size_t>> files;
  for (const std::string& url : *urls) {
    struct stat data {};
    ASSERT_EQ(stat(ParseUrl(url)->path.c_str(), &data), 0);
    files[data.st_ino] = {static_cast<uint64_t>(data.st_size), data.st_nlink};
  }
  size_t larger = 0;
  for (const auto& [inode, file] : files) {
    if (file.first > options_.max_segment_bytes) {
      ++larger;
      EXPECT_EQ(file.second, 1u);
    }
  }
  EXPECT_EQ(larger, 1u);
  EXPECT_EQ(files.size(), 5u);  // 20 records of 152 KiB, six to a segment, and the large one
  ExpectAllReadBack(engine.get(), *urls, samples);
}

TEST_F(EngineTest, LinkLimitOfTheFileSystemIsRespected) {
  fs_.link_max = 10;
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(50, 5000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok()) << urls.status();
  for (const std::string& url : *urls) {
    struct stat data {};
    ASSERT_EQ(stat(ParseUrl(url)->path.c_str(), &data), 0);
    EXPECT_LT(data.st_nlink, 10u);
  }
  ExpectAllReadBack(engine.get(), *urls, samples);
}

class EngineFallbackTest : public EngineTest, public ::testing::WithParamInterface<int> {};

TEST_P(EngineFallbackTest, FileSystemWithoutSomethingFallsBackAndSaysSo) {
  fs_.unnamed_files = (GetParam() & 1) != 0;
  fs_.links = (GetParam() & 2) != 0;
  fs_.holes = (GetParam() & 4) != 0;
  options_.max_fused_bytes = 1 << 20;
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(40, 100000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok()) << urls.status();
  ASSERT_EQ(urls->size(), samples.size());
  ExpectAllReadBack(engine.get(), *urls, samples);
  EXPECT_EQ(engine->Limitations().empty(), GetParam() == 7);
  EXPECT_EQ(FilesNamed(".tmp"), 0u);
  EXPECT_EQ(FilesNamed("segment-"), 0u);
  const bool per_object = fs_.links && fs_.holes;
  EXPECT_EQ(FilesNamed("fused-") > 0, !per_object);
  if (!per_object) {
    EXPECT_GE(FilesNamed("fused-"), 4u);  // bounded, like upstream's with a cap
  }
  ASSERT_TRUE(engine->Delete(*urls).ok());
  EXPECT_EQ(DiskBytes(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Abilities, EngineFallbackTest, ::testing::Range(0, 8));

TEST_F(EngineTest, FullDirectoryInTheMiddleOfABatchGoesOnInTheNext) {
  AddDirectory("b");
  fs_.free_bytes[root_ + "/a"] = uint64_t{1} << 40;  // chosen first, but lies about its room
  fs_.full = root_ + "/a";
  options_.reserve_bytes = 0;
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(20, 100000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok()) << urls.status();
  ASSERT_EQ(urls->size(), samples.size());
  for (const std::string& url : *urls) EXPECT_THAT(url, HasSubstr("/b/"));
  EXPECT_EQ(FilesNamed(".tmp"), 0u);
  ExpectAllReadBack(engine.get(), *urls, samples);
}

TEST_F(EngineTest, BatchLargerThanAnyDirectoryIsSplitOverThem) {
  AddDirectory("b");
  options_.reserve_bytes = 0;
  fs_.free_bytes[root_ + "/a"] = 1 << 20;
  fs_.free_bytes[root_ + "/b"] = 1200 << 10;
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(12, 150000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok()) << urls.status();
  EXPECT_EQ(urls->size(), samples.size());
  ExpectAllReadBack(engine.get(), *urls, samples);
}

TEST_F(EngineTest, VanishedDirectoryIsSkippedAndNotRecreated) {
  AddDirectory("b");
  fs_.vanished = root_ + "/b";
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(3, 100000);
  for (int round = 0; round < 3; ++round) {
    const auto urls = engine->Spill(Views(samples));
    ASSERT_TRUE(urls.ok()) << urls.status();
    for (const std::string& url : *urls) EXPECT_THAT(url, HasSubstr("/a/"));
  }
}

TEST_F(EngineTest, ReserveIsNeverEaten) {
  fs_.free_bytes[root_ + "/a"] = 10 << 20;
  options_.reserve_bytes = 10 << 20;
  const auto engine = MakeEngine();
  const auto urls = engine->Spill(Views(MakeSamples(1, 100000)));
  EXPECT_TRUE(absl::IsResourceExhausted(urls.status()));
}

TEST_F(EngineTest, RoomThatAnotherWorkerTookMeanwhileIsNotTakenFromTheReserve) {
  AddDirectory("b");
  fs_.free_bytes[root_ + "/a"] = 30 << 20;
  fs_.free_bytes[root_ + "/b"] = 11 << 20;
  options_.reserve_bytes = 10 << 20;
  const auto engine = MakeEngine();
  fs_.before_file = [this](const std::string& directory) {
    if (directory.find("/a/") != std::string::npos) fs_.free_bytes[root_ + "/a"] = (10 << 20) + 4096;
  };
  const std::vector<Sample> samples = MakeSamples(1, 100000);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok()) << urls.status();
  EXPECT_THAT((*urls)[0], HasSubstr("/b/"));
  ExpectAllReadBack(engine.get(), *urls, samples);
  fs_.free_bytes[root_ + "/a"] = 30 << 20;
  fs_.free_bytes[root_ + "/b"] = 0;
  const auto none = engine->Spill(Views(MakeSamples(1, 100000, 7)));
  ASSERT_TRUE(absl::IsResourceExhausted(none.status())) << none.status();
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("/a: 10489856 bytes free, 4096 of them usable above"));
  EXPECT_EQ(FilesNamed(".tmp"), 0u);
}

// A disk on which all workers' blocks count, and take their time.
class SmallDisk : public FaultyFileSystem {
 public:
  SmallDisk(FileSystem* real, uint64_t total_bytes) : FaultyFileSystem(real), total_bytes_(total_bytes) {}

  absl::StatusOr<SpaceInfo> Space(const std::string& path) override {
    absl::StatusOr<SpaceInfo> space = FaultyFileSystem::Space(path);
    if (space.ok()) *space = {total_bytes_ - used_bytes, total_bytes_, space->link_max};
    return space;
  }
  absl::Status Allocate(int fd, uint64_t size_bytes) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    used_bytes += size_bytes;
    return FaultyFileSystem::Allocate(fd, size_bytes);
  }

  std::atomic<uint64_t> used_bytes{0};

 private:
  const uint64_t total_bytes_;
};

TEST_F(EngineTest, WorkersThatTakeTheLastRoomAtTheSameMomentLeaveTheReserve) {
  constexpr uint64_t kTotalBytes = 8 << 20;
  constexpr uint64_t kReserveBytes = 2 << 20;
  constexpr uint64_t kObjectBytes = 100000;
  SmallDisk disk(&posix_, kTotalBytes);
  options_.reserve_bytes = kReserveBytes;
  std::vector<std::thread> workers;
  std::atomic<int> refused{0};
  for (int64_t pid = 1; pid <= 4; ++pid) {
    workers.emplace_back([&, pid] {
      EngineOptions options = options_;
      options.self = {pid, 1};
      Engine engine(&disk, &clock_, &host_, &parallel_, options);
      const auto first = static_cast<uint32_t>(pid) * 1000;
      for (uint32_t i = 0; i < 100; ++i) {
        if (!engine.Spill(Views(MakeSamples(1, kObjectBytes, first + i))).ok()) ++refused;
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  EXPECT_GT(refused, 0);
  EXPECT_LE(disk.used_bytes, kTotalBytes - kReserveBytes);
  EXPECT_GT(disk.used_bytes + RecordBytes(kObjectBytes + 200), kTotalBytes - kReserveBytes);
}

TEST_F(EngineTest, NoRoomAnywhereIsOneErrorThatSaysDirectoryNeededAndFree) {
  fs_.free_bytes[root_ + "/a"] = 5000;
  options_.reserve_bytes = 0;
  const auto engine = MakeEngine();
  const auto urls = engine->Spill(Views(MakeSamples(3, 100000)));
  ASSERT_TRUE(absl::IsResourceExhausted(urls.status()));
  const std::string message(urls.status().message());
  EXPECT_THAT(message, HasSubstr(root_ + "/a has 5000 bytes free"));
  EXPECT_THAT(message, HasSubstr("an object of 102400 bytes"));
  EXPECT_EQ(DiskBytes(), 0u);
  EXPECT_EQ(FilesNamed(".tmp"), 0u);
}

// Ray takes partial success only as a prefix of what it asked for.
TEST_F(EngineTest, OnlyAPrefixIsReportedWhenALaterSmallerObjectWouldFit) {
  options_.reserve_bytes = 0;
  fs_.free_bytes[root_ + "/a"] = 600 << 10;
  const auto engine = MakeEngine();
  std::vector<Sample> samples = MakeSamples(5, 100000);
  samples[2] = MakeSample(77, 2 << 20);
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok()) << urls.status();
  EXPECT_EQ(urls->size(), 2u);
  ExpectAllReadBack(engine.get(), *urls, samples);
  Reclaim(engine.get());
  EXPECT_LE(DiskBytes(), 2u * 102400);
}

TEST_F(EngineTest, CrashAtEveryOperationLeavesWholeBatchesOrNothing) {
  const std::vector<Sample> samples = MakeSamples(6, 20000);
  int64_t operations = 0;
  {
    const auto engine = MakeEngine(1);
    fs_.FailAt(-1, absl::OkStatus(), false);
    ASSERT_TRUE(engine->Spill(Views(samples)).ok());
    operations = fs_.operations();
  }
  ASSERT_GT(operations, 10);
  for (int64_t crash_at = 0; crash_at < operations; ++crash_at) {
    fs::remove_all(options_.node_directories[0]);
    fs::create_directories(options_.node_directories[0]);
    {
      const auto doomed = MakeEngine(1);
      fs_.FailAt(crash_at, absl::AbortedError("killed"), true);
      doomed->Spill(Views(samples)).status().IgnoreError();
    }
    fs_.FailAt(-1, absl::OkStatus(), false);
    host_.dead.insert(1);
    const auto next = MakeEngine(2);
    // The raylet never heard of the batch: it asks for the same objects again.
    const auto urls = next->Spill(Views(samples));
    ASSERT_TRUE(urls.ok()) << urls.status();
    ExpectAllReadBack(next.get(), *urls, samples);
    EXPECT_EQ(FilesNamed(".tmp"), 0u) << "crash at " << crash_at;
    Reclaim(next.get());
    EXPECT_EQ(DiskBytes(), 6 * samples[0].view().record_bytes())
        << "crash at " << crash_at << ": a lost batch still holds disk";
    ASSERT_TRUE(next->Delete(*urls).ok());
    EXPECT_EQ(DiskBytes(), 0u);
    EXPECT_EQ(FilesNamed("w1-1"), 0u);
  }
}

TEST_F(EngineTest, ErrorAtEveryOperationLosesNothing) {
  AddDirectory("b");
  const std::vector<Sample> samples = MakeSamples(6, 20000);
  for (const absl::Status& failure :
       {absl::ResourceExhaustedError("No space left"), absl::UnavailableError("Input/output error")}) {
    for (int64_t at = 0; at < 40; ++at) {
      const auto engine = MakeEngine(1000 + at);
      fs_.FailAt(at, failure, false);
      const auto urls = engine->Spill(Views(samples));
      fs_.FailAt(-1, absl::OkStatus(), false);
      ASSERT_TRUE(urls.ok()) << "failing operation " << at << ": " << urls.status();
      EXPECT_EQ(urls->size(), samples.size()) << "failing operation " << at;
      // An error that passes is not taken for a file system that lacks something.
      EXPECT_TRUE(engine->Limitations().empty()) << "failing operation " << at;
      ExpectAllReadBack(engine.get(), *urls, samples);
      ASSERT_TRUE(engine->Delete(*urls).ok());
    }
  }
}

TEST_F(EngineTest, ObjectsOfATaskLieInTheOrderOfTheirCreation) {
  const auto engine = MakeEngine();
  std::vector<Sample> samples = MakeSamples(600, 1000);
  for (size_t i = 0; i < samples.size(); ++i) {
    // Put number i + 1 of one task, handed over in no order.
    const uint32_t number = static_cast<uint32_t>((i * 7 + 3) % samples.size()) + 1;
    std::string id(kObjectIdBytes, 't');
    for (size_t byte = 0; byte < 4; ++byte) id[24 + byte] = static_cast<char>(number >> (8 * byte));
    samples[i].id = *ObjectId::FromBinary(id);
  }
  const auto urls = engine->Spill(Views(samples));
  ASSERT_TRUE(urls.ok());
  const uint64_t record_bytes = samples[0].view().record_bytes();
  for (size_t i = 0; i < samples.size(); ++i) {
    EXPECT_EQ(ParseUrl((*urls)[i])->offset, (i * 7 + 3) % samples.size() * record_bytes) << i;
  }
  ExpectAllReadBack(engine.get(), *urls, samples);
}

TEST_F(EngineTest, ManyWorkersAndThreadsOnOneDirectory) {
  std::vector<std::unique_ptr<Engine>> engines;
  for (int64_t pid = 1; pid <= 4; ++pid) engines.push_back(MakeEngine(pid));
  std::atomic<bool> stop{false};
  std::vector<std::thread> tickers;
  for (const auto& engine : engines) {
    tickers.emplace_back([&stop, &engine] {
      while (!stop) engine->Tick();
    });
  }
  std::vector<std::thread> workers;
  for (size_t w = 0; w < engines.size(); ++w) {
    workers.emplace_back([&, w] {
      for (uint32_t round = 0; round < 10; ++round) {
        const std::vector<Sample> samples = MakeSamples(8, 30000, static_cast<uint32_t>(w) * 1000 + round * 10);
        const auto urls = engines[w]->Spill(Views(samples));
        ASSERT_TRUE(urls.ok());
        Engine* other = engines[(w + 1) % engines.size()].get();
        ExpectAllReadBack(other, *urls, samples);
        ASSERT_TRUE(other->Delete(std::span(*urls).first(4)).ok());
        ASSERT_TRUE(engines[w]->Delete(std::span(*urls).subspan(4)).ok());
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  stop = true;
  for (std::thread& ticker : tickers) ticker.join();
  EXPECT_EQ(DiskBytes(), 0u);
}

}  // namespace
}  // namespace mantaray::spill
