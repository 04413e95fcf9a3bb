// Options: what the command line and the environment may say, and what is said about the rest.

#include "mantaray/relay/options.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "mantaray/relay/log.h"

namespace mantaray::relay {
namespace {

using Variables = std::map<std::string, std::string>;

Parsed Parse(const std::vector<std::string>& arguments, const Variables& variables = {}) {
  return ParseOptions(arguments, [&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(OptionsTest, BothWaysToGiveAValueAreRead) {
  const Parsed parsed = Parse({"--upstream", "head:6379", "--listen=[::]:1", "--window-ms=0", "--suppress-noise"});
  ASSERT_EQ(parsed.ask, Ask::kRun) << parsed.error;
  EXPECT_EQ(parsed.options.upstream, "head:6379");
  EXPECT_EQ(parsed.options.listen, "[::]:1");
  EXPECT_EQ(parsed.options.window_ms, 0);
  EXPECT_TRUE(parsed.options.suppress_noise);
}

TEST(OptionsTest, RaysOwnVariablesAreHonouredAndTheCommandLineWins) {
  const Variables variables = {{"RAY_gcs_resource_broadcast_max_batch_delay_ms", "70"},
                               {"RAY_gcs_resource_broadcast_max_batch_size", "5"}};
  const Parsed from_environment = Parse({"--upstream=h:1"}, variables);
  EXPECT_EQ(from_environment.options.window_ms, 70);
  EXPECT_EQ(from_environment.options.max_batch_size, 5);
  EXPECT_EQ(Parse({"--upstream=h:1", "--window-ms=9"}, variables).options.window_ms, 9);
}

TEST(OptionsTest, WhatIsWrongIsOneSentenceThatNamesItAndWhatIsAllowed) {
  const std::map<std::string, std::string> wrong = {
      {"--window-ms=-1", "--window-ms is '-1'; allowed: a whole number from 0 to 60000"},
      {"--window-ms=1x", "--window-ms is '1x'; allowed: a whole number from 0 to 60000"},
      {"--max-memory-bytes=1000",
       "--max-memory-bytes is '1000'; allowed: a whole number from 64000000 to 1099511627776"},
      {"--listen=6379", "--listen is '6379'; allowed: HOST:PORT"},
      {"--listen=h:70000", "--listen is 'h:70000'; allowed: HOST:PORT"},
      {"--log-level=loud", "--log-level is 'loud'; allowed: debug, info, warning or error"},
      {"--dialect=latin", "--dialect is 'latin'; allowed: auto, bare or batch"},
      {"--colour=blue", "there is no option '--colour=blue'"},
      {"status", "there is no option 'status'"},
      {"--drain-ms", "--drain-ms needs a value"},
  };
  for (const auto& [argument, error] : wrong) {
    const Parsed parsed = Parse({"--upstream=h:1", argument});
    EXPECT_EQ(parsed.ask, Ask::kError) << argument;
    EXPECT_EQ(parsed.error, error);
  }
  EXPECT_EQ(Parse({}).error, "--upstream is missing: name the GCS, HOST:PORT");
  EXPECT_EQ(Parse({"--upstream=h:1"}, {{"RAY_gcs_resource_broadcast_max_batch_size", "many"}}).error,
            "RAY_gcs_resource_broadcast_max_batch_size is set to 'many'; allowed: a whole number from 0 to 1000000");
}

TEST(OptionsTest, Ipv6AddressWithoutBracketsIsOneWith) {
  const Options options = Parse({"--upstream=h:1", "--admin-advertise=fd00::7:6380", "--listen=[::]:6379"}).options;
  EXPECT_EQ(options.admin_advertise, "[fd00::7]:6380");
  EXPECT_EQ(options.listen, "[::]:6379");
}

TEST(OptionsTest, PartOfATlsConfigurationIsNotTakenForNone) {
  const Variables all = {
      {"RAY_TLS_SERVER_CERT", "/c"}, {"RAY_TLS_SERVER_KEY", "/k"}, {"RAY_TLS_CA_CERT", "/a"}, {"RAY_USE_TLS", "1"}};
  for (const char* name : {"RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"}) {
    Variables others = all;
    others.erase(name);
    const Parsed parsed = Parse({"--upstream=h:1"}, others);
    EXPECT_EQ(parsed.ask, Ask::kError) << name;
    EXPECT_EQ(parsed.error, "RAY_USE_TLS is on, but " + std::string(name) +
                                " is not set; RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT have to be");
  }
  const TlsFiles files = Parse({"--upstream=h:1"}, all).options.tls;
  EXPECT_TRUE(files.used);
  EXPECT_EQ(files.certificate + files.key + files.authority, "/c/k/a");
}

TEST(OptionsTest, TlsIsOnForWhateverRayTakesForOn) {
  Variables variables = {{"RAY_TLS_SERVER_CERT", "/c"}, {"RAY_TLS_SERVER_KEY", "/k"}, {"RAY_TLS_CA_CERT", "/a"}};
  const std::map<std::string, bool> switches = {{"1", true},    {"true", true},   {"True", true},
                                                {"TRUE", true}, {"0", false},     {"", false},
                                                {"tru", false}, {"false", false}, {"yes", false}};
  for (const auto& [value, on] : switches) {
    variables["RAY_USE_TLS"] = value;
    EXPECT_EQ(Parse({"--upstream=h:1"}, variables).options.tls.used, on) << value;
  }
}

TEST(OptionsTest, SharedReadsAreNamedOneByOne) {
  EXPECT_TRUE(Parse({"--upstream=h:1"}).options.shared_reads.all());
  EXPECT_TRUE(Parse({"--upstream=h:1", "--shared-reads=none"}).options.shared_reads.none());
  const SharedMethodSet two =
      Parse({"--upstream=h:1", "--shared-reads=GetAllNodeInfo,CheckAlive"}).options.shared_reads;
  EXPECT_EQ(two.count(), 2u);
  EXPECT_TRUE(two.test(*SharedMethodOf("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")));
  for (const char* wrong : {"--shared-reads=", "--shared-reads=RegisterNode", "--shared-reads=CheckAlive,"}) {
    const Parsed parsed = Parse({"--upstream=h:1", wrong});
    EXPECT_EQ(parsed.ask, Ask::kError) << wrong;
    EXPECT_NE(parsed.error.find("allowed: all, none, or some of CheckAlive"), std::string::npos) << parsed.error;
  }
}

TEST(OptionsTest, HelpWinsOverEverything) {
  EXPECT_EQ(Parse({"--nonsense", "--help"}).ask, Ask::kHelp);
  EXPECT_EQ(Parse({"--version"}).ask, Ask::kVersion);
}

TEST(LogTest, NothingThatAPeerSaysBreaksALine) {
  EXPECT_EQ(JsonString("a\"b\\c\n\x01\xff"), "\"a\\\"b\\\\c\\u000a\\u0001\\u00ff\"");
}

}  // namespace
}  // namespace mantaray::relay
