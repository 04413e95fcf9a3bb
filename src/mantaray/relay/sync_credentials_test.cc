// Tests of which credentials a relay shows upstream.

#include "mantaray/relay/sync_credentials.h"

#include <gtest/gtest.h>

namespace mantaray::relay {
namespace {

SyncCredentials Made(uint64_t verified, size_t streams) {
  SyncCredentials made;
  made.verified = verified;
  made.streams = streams;
  return made;
}

TEST(SyncCredentials, ExpiredTokenIsNotShownWhenANewerOneIsThere) {
  SyncCredentialsMap credentials;
  credentials["a, of the first node"] = Made(1, 1);
  credentials["m, renewed last"] = Made(200, 1);
  credentials["z, of the last name"] = Made(100, 1);
  EXPECT_EQ(CredentialsToShow(credentials)->first, "m, renewed last");
}

TEST(SyncCredentials, TokenOfANodeThatLeftIsNotShown) {
  SyncCredentialsMap credentials;
  credentials["gone"] = Made(2, 0);
  EXPECT_EQ(CredentialsToShow(credentials), nullptr);
  credentials["here"] = Made(1, 1);
  EXPECT_EQ(CredentialsToShow(credentials)->first, "here");
}

}  // namespace
}  // namespace mantaray::relay
