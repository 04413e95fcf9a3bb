// Which metadata a relay carries on, and how it finds out that a call comes round.

#include "mantaray/relay/metadata.h"

#include <gtest/gtest.h>

#include <string>

namespace mantaray::relay {
namespace {

TEST(MetadataTest, CredentialsAndWhateverSomebodySetIsCarried) {
  for (const char* key : {"authorization", "node_id", "cluster_id", "raw-bin", "grpc-trace-bin"}) {
    EXPECT_TRUE(IsCarried(key)) << key;
  }
}

// gRPC writes them anew; two of a kind would end the call.
TEST(MetadataTest, WhatBelongsToOneConnectionIsNotCarried) {
  for (const char* key : {":path", ":authority", "te", "content-type", "user-agent", "host", "grpc-timeout",
                          "grpc-encoding", "grpc-accept-encoding", "grpc-status", "content-length", ""}) {
    EXPECT_FALSE(IsCarried(key)) << key;
  }
}

TEST(MetadataTest, ACallThatComesRoundIsFoundWhereverItBegan) {
  EXPECT_EQ(PathWith({}, "aa"), "aa");
  EXPECT_EQ(PathWith({{kPathKey, "aa"}}, "bb"), "aa,bb");
  EXPECT_EQ(PathWith({{kPathKey, "aa,bb"}}, "bb"), std::nullopt);
  EXPECT_EQ(PathWith({{kPathKey, "aa,bb"}}, "aa"), std::nullopt);
}

TEST(MetadataTest, APathThatIsTooLongToBeTrueIsRefused) {
  const std::string path(2'000, 'x');
  EXPECT_EQ(PathWith({{kPathKey, path}}, "aa"), std::nullopt);
}

}  // namespace
}  // namespace mantaray::relay
