// Tests of names and URLs: each parses back to what it was made of, and nothing else parses.

#include "mantaray/spill/names.h"

#include <gtest/gtest.h>

namespace mantaray::spill {
namespace {

TEST(Names, LinkNameRoundTripAndRejects) {
  LinkName link;
  link.object_id = *ObjectId::FromBinary(std::string(kObjectIdBytes, '\xab'));
  link.offset = 42 * kBlockBytes;
  link.object_bytes = 150123;
  const std::string name = FormatLinkName(link);
  const auto parsed = ParseLinkName(name);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->object_id, link.object_id);
  EXPECT_EQ(parsed->offset, link.offset);
  EXPECT_EQ(parsed->object_bytes, link.object_bytes);
  EXPECT_FALSE(parsed->damaged);
  EXPECT_FALSE(parsed->owner.has_value());
  EXPECT_TRUE(ParseLinkName(name + std::string(kDamagedSuffix))->damaged);
  EXPECT_EQ(ParseLinkName(name + ".1f")->owner, 31u);
  EXPECT_TRUE(ParseLinkName(name + ".1f" + std::string(kDamagedSuffix))->damaged);
  for (const std::string& bad :
       {std::string(), std::string("owner"), name + "x", name.substr(1), name + ".1.1", name + ".",
        std::string("fused-0"), std::string(56, 'g') + ".0.1", std::string(56, 'a') + ".1.1"}) {
    EXPECT_FALSE(ParseLinkName(bad).has_value()) << bad;
  }
}

TEST(Names, WorkerDirectoryRoundTripAndRejects) {
  const ProcessId process{4711, 123456789};
  EXPECT_EQ(ParseWorkerDirectoryName(WorkerDirectoryName(process)), process);
  for (const char* bad : {"", "w", "w1", "w-1", "w1-", "x1-2", "w0-1", "w1-2-3", "w1 -2", "w99999999999-1"}) {
    EXPECT_FALSE(ParseWorkerDirectoryName(bad).has_value()) << bad;
  }
}

TEST(Names, UrlRoundTripAndRejects) {
  const auto parsed = ParseUrl(FormatUrl("/spill/what?is this", 4096, 99));
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->path, "/spill/what?is this");
  EXPECT_EQ(parsed->offset, 4096u);
  EXPECT_EQ(parsed->object_bytes, 99u);
  for (const char* bad : {"", "/a", "?offset=1&size=2", "/a?offset=&size=2", "/a?offset=1", "/a?offset=-1&size=2",
                          "/a?offset=1&size=99999999999999999999999"}) {
    EXPECT_EQ(ParseUrl(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace mantaray::spill
