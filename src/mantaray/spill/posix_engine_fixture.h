// What the engine's tests share: an engine on real files behind a file system that fails on schedule. For tests.

#ifndef MANTARAY_SPILL_POSIX_ENGINE_FIXTURE_H_
#define MANTARAY_SPILL_POSIX_ENGINE_FIXTURE_H_

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "mantaray/spill/engine.h"
#include "mantaray/spill/faulty_file_system.h"
#include "mantaray/spill/posix_file_system.h"
#include "mantaray/spill/posix_parallel.h"

namespace mantaray::spill {

class FakeHost : public Host {
 public:
  bool IsAlive(const ProcessId& process) override { return !dead.contains(process.pid); }
  absl::StatusOr<OpenFiles> FilesOfRaylet() override { return files_of_raylet; }
  std::set<int64_t> dead;
  absl::StatusOr<OpenFiles> files_of_raylet = absl::UnavailableError("no raylet");
};

// An object that owns its bytes.
struct Sample {
  ObjectId id;
  std::string address;
  std::string metadata;
  std::string payload;

  ObjectToSpill view() const { return {id, address, metadata, payload}; }
};

inline Sample MakeSample(uint32_t number, size_t payload_bytes) {
  Sample sample;
  std::mt19937 random(number);
  std::string id(kObjectIdBytes, '\0');
  for (char& byte : id) byte = static_cast<char>(random());
  sample.id = *ObjectId::FromBinary(id);
  sample.address = std::string(90 + number % 7, 'a');
  sample.metadata = number % 2 == 0 ? "PYTHON" : "";
  sample.payload.resize(payload_bytes);
  for (char& byte : sample.payload) byte = static_cast<char>(random());
  return sample;
}

inline std::vector<Sample> MakeSamples(size_t count, size_t payload_bytes, uint32_t first = 0) {
  std::vector<Sample> samples;
  for (size_t i = 0; i < count; ++i) samples.push_back(MakeSample(first + static_cast<uint32_t>(i), payload_bytes));
  return samples;
}

inline std::vector<ObjectToSpill> Views(const std::vector<Sample>& samples) {
  std::vector<ObjectToSpill> views;
  for (const Sample& sample : samples) views.push_back(sample.view());
  return views;
}

// The numbers of the objects in the order in which they lie in their segment.
inline std::vector<size_t> Forward(const std::vector<std::string>& urls) {
  std::vector<size_t> order(urls.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return ParseUrl(urls[a])->offset < ParseUrl(urls[b])->offset; });
  return order;
}

class EngineTest : public ::testing::Test {
 protected:
  EngineTest() {
    // The test's own directory, on a disk: tmpfs would not tell everything.
    const char* base = std::getenv("TEST_TMPDIR");
    std::string pattern = std::string(base != nullptr ? base : "/tmp") + "/engine_test.XXXXXX";
    root_ = mkdtemp(pattern.data());
    AddDirectory("a");
  }
  ~EngineTest() override { std::filesystem::remove_all(root_); }

  void AddDirectory(const std::string& name) {
    options_.node_directories.push_back(root_ + "/" + name);
    std::filesystem::create_directories(options_.node_directories.back());
  }

  std::unique_ptr<Engine> MakeEngine(int64_t pid = 100) {
    EngineOptions options = options_;
    options.self = {pid, 1};
    return std::make_unique<Engine>(&fs_, &clock_, &host_, &parallel_, options);
  }

  uint64_t DiskBytes() const {
    std::set<ino_t> seen;
    uint64_t total = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root_)) {
      struct stat data {};
      if (!entry.is_regular_file() || lstat(entry.path().c_str(), &data) != 0) continue;
      if (seen.insert(data.st_ino).second) total += static_cast<uint64_t>(data.st_blocks) * 512;
    }
    return total;
  }

  size_t FilesNamed(const std::string& part) const {
    size_t count = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root_)) {
      if (entry.path().filename().string().find(part) != std::string::npos) ++count;
    }
    return count;
  }

  absl::Status ReadBack(Engine* engine, const std::string& url, const Sample& sample) {
    absl::StatusOr<ObjectReader> reader = engine->Open(url, sample.id);
    if (!reader.ok()) return reader.status();
    EXPECT_EQ(reader->owner_address(), sample.address);
    EXPECT_EQ(reader->metadata(), sample.metadata);
    std::string payload(reader->payload_bytes(), '\0');
    if (absl::Status status = reader->ReadPayload(payload, &parallel_); !status.ok()) return status;
    EXPECT_TRUE(payload == sample.payload);
    return absl::OkStatus();
  }

  void ExpectAllReadBack(Engine* engine, const std::vector<std::string>& urls, const std::vector<Sample>& samples) {
    ASSERT_LE(urls.size(), samples.size());
    for (size_t i = 0; i < urls.size(); ++i) EXPECT_TRUE(ReadBack(engine, urls[i], samples[i]).ok()) << urls[i];
  }

  void Reclaim(Engine* engine) {
    clock_.AdvanceMs(10000);
    for (int i = 0; i < 20; ++i) {
      engine->Tick();
      clock_.AdvanceMs(3000);
    }
  }

  void Damage(const std::string& url, int64_t at, char mask) {
    const ParsedUrl parsed = *ParseUrl(url);
    std::fstream file(parsed.path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<int64_t>(parsed.offset) + at);
    const char byte = static_cast<char>(file.get());
    file.seekp(static_cast<int64_t>(parsed.offset) + at);
    file.put(static_cast<char>(byte ^ mask));
  }

  std::string root_;
  HelperThreads parallel_;
  PosixFileSystem posix_;
  FaultyFileSystem fs_{&posix_};
  VirtualClock clock_;
  FakeHost host_;
  EngineOptions options_;
};

}  // namespace mantaray::spill

#endif  // MANTARAY_SPILL_POSIX_ENGINE_FIXTURE_H_
