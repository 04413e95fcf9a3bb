// Reading spilled objects without an engine, as `ray.get` does. The names are the list of damages survived.

#include "mantaray/spill/spilled_object.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "mantaray/spill/posix_engine_fixture.h"

namespace mantaray::spill {
namespace {

constexpr uint64_t kNoBound = uint64_t{1} << 40;

class SpilledObjectTest : public EngineTest {
 protected:
  absl::StatusOr<std::unique_ptr<SpilledObject>> Read(const std::string& url, const Sample& sample,
                                                      uint64_t most_live_bytes = kNoBound) {
    return SpilledObject::Read(&fs_, *ParseUrl(url), sample.id, most_live_bytes);
  }
};

TEST_F(SpilledObjectTest, ObjectsOfEverySizeComeBackAlignedAsInTheStore) {
  const auto engine = MakeEngine();
  std::vector<Sample> samples;
  for (const size_t size_bytes : {0, 1, 63, 64, 65, 4096, 65536, 150000, 3 << 20}) {
    samples.push_back(MakeSample(static_cast<uint32_t>(size_bytes), size_bytes));
  }
  const auto urls = *engine->Spill(Views(samples));
  for (const bool cached : {true, false}) {
    fs_.never_cached = !cached;
    for (size_t i = 0; i < samples.size(); ++i) {
      const auto object = Read(urls[i], samples[i]);
      ASSERT_TRUE(object.ok()) << object.status();
      EXPECT_EQ((*object)->metadata(), samples[i].metadata);
      const std::span<char> payload = (*object)->payload();
      EXPECT_TRUE(std::string(payload.data(), payload.size()) == samples[i].payload);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(payload.data()) % SpilledObject::kAlignmentBytes, 0u);
    }
  }
}

TEST_F(SpilledObjectTest, DamageAnywhereIsAnErrorAndLeavesTheObjectToTheIoWorker) {
  const auto engine = MakeEngine();
  for (const size_t size_bytes : {2000, 150000}) {
    const Sample sample = MakeSample(static_cast<uint32_t>(size_bytes), size_bytes);
    const std::string url = engine->Spill(Views({sample}))->front();
    const auto object_bytes = static_cast<int64_t>(ParseUrl(url)->object_bytes);
    for (const int64_t at : {int64_t{0}, int64_t{30}, object_bytes / 2, object_bytes - 1, object_bytes + 20}) {
      Damage(url, at, 1);
      EXPECT_TRUE(absl::IsDataLoss(Read(url, sample).status())) << size_bytes << " bytes, damaged at " << at;
      Damage(url, at, 1);
      EXPECT_TRUE(Read(url, sample).ok());
    }
    EXPECT_EQ(FilesNamed(std::string(kDamagedSuffix)), 0u);
  }
}

TEST_F(SpilledObjectTest, AnotherObjectAtTheSamePlaceIsAnError) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(2, 150000);
  const auto urls = *engine->Spill(Views(samples));
  EXPECT_TRUE(absl::IsDataLoss(Read(urls[0], samples[1]).status()));
}

TEST_F(SpilledObjectTest, DeletedObjectIsAnErrorAndNeverZeros) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(3, 150000);
  const auto urls = *engine->Spill(Views(samples));
  const auto kept = Read(urls[0], samples[0]);
  ASSERT_TRUE(kept.ok());
  ASSERT_TRUE(engine->Delete({urls.data(), 1}).ok());
  EXPECT_TRUE(absl::IsNotFound(Read(urls[0], samples[0]).status()));
  Reclaim(engine.get());
  // A name of the segment that is still there, and the range of the object that was punched out.
  ParsedUrl punched = *ParseUrl(urls[1]);
  punched.offset = ParseUrl(urls[0])->offset;
  EXPECT_TRUE(absl::IsDataLoss(SpilledObject::Read(&fs_, punched, samples[0].id, kNoBound).status()));
  // What was read before the delete is the reader's own, and keeps no blocks.
  EXPECT_EQ(std::string((*kept)->payload().data(), (*kept)->payload().size()), samples[0].payload);
  EXPECT_LE(DiskBytes(), 2 * samples[0].view().record_bytes());
}

TEST_F(SpilledObjectTest, RangeThatIsBeingPunchedOutIsAnError) {
  const auto engine = MakeEngine();
  const Sample sample = MakeSample(1, 150000);
  const std::string url = engine->Spill(Views({sample}))->front();
  {
    const ParsedUrl parsed = *ParseUrl(url);
    const auto puncher = posix_.Open(parsed.path, /*writable=*/true);
    ASSERT_TRUE(posix_.LockRange(puncher->fd(), parsed.offset, 1, /*exclusive=*/true).ok());
    EXPECT_TRUE(absl::IsUnavailable(Read(url, sample).status()));
  }
  EXPECT_TRUE(Read(url, sample).ok());
}

TEST_F(SpilledObjectTest, ReadErrorIsAnErrorWhereverItHappens) {
  const auto engine = MakeEngine();
  const Sample sample = MakeSample(1, 150000);
  const std::string url = engine->Spill(Views({sample}))->front();
  for (int64_t at = 0;; ++at) {
    fs_.passing_after = at;
    fs_.passing_errors = 1;
    const auto object = Read(url, sample);
    if (fs_.passing_errors.exchange(0) > 0) break;  // it takes fewer operations than that
    EXPECT_TRUE(absl::IsUnavailable(object.status())) << object.status() << " at " << at;
  }
  EXPECT_EQ(SpilledObject::LiveBytes(), 0u);
}

TEST_F(SpilledObjectTest, LiveBytesAreBoundedAndGivenBack) {
  const auto engine = MakeEngine();
  const std::vector<Sample> samples = MakeSamples(2, 150000);
  const auto urls = *engine->Spill(Views(samples));
  const uint64_t first_bytes = ParseUrl(urls[0])->object_bytes;
  const uint64_t second_bytes = ParseUrl(urls[1])->object_bytes;
  const uint64_t too_few_bytes = first_bytes + second_bytes - 1;
  {
    const auto first = Read(urls[0], samples[0], too_few_bytes);
    ASSERT_TRUE(first.ok());
    EXPECT_EQ(SpilledObject::LiveBytes(), first_bytes);
    EXPECT_TRUE(absl::IsResourceExhausted(Read(urls[1], samples[1], too_few_bytes).status()));
    EXPECT_TRUE(absl::IsResourceExhausted(Read(urls[1], samples[1], second_bytes - 1).status()));
  }
  EXPECT_EQ(SpilledObject::LiveBytes(), 0u);
  EXPECT_TRUE(Read(urls[1], samples[1], too_few_bytes).ok());
}

}  // namespace
}  // namespace mantaray::spill
