// Tests of payloads: what is noise, what is not, and that no command is lost.

#include "mantaray/syncer/payload.h"

#include <gtest/gtest.h>

#include <bit>

namespace mantaray::syncer {
namespace {

void AppendField(uint32_t number, uint32_t kind, uint64_t value, std::string* out) {
  AppendVarint(uint64_t{number} << 3 | kind, out);
  AppendVarint(value, out);
}

std::string Resource(uint32_t field, std::string_view name, double amount) {
  std::string entry;
  AppendField(1, 2, name.size(), &entry);
  entry.append(name);
  AppendVarint(2 << 3 | 1, &entry);
  const auto bits = std::bit_cast<uint64_t>(amount);
  entry.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
  std::string out;
  AppendField(field, 2, entry.size(), &out);
  return out + entry;
}

std::string View(double cpu, double store_bytes, int64_t idle_ms, bool pulls = false) {
  std::string out = Resource(1, "CPU", cpu) + Resource(1, "object_store_memory", store_bytes) + Resource(2, "CPU", 8);
  if (pulls) AppendField(3, 0, 1, &out);
  if (idle_ms != 0) AppendField(4, 0, static_cast<uint64_t>(idle_ms), &out);
  return out;
}

constexpr NoiseOptions kNoise{.enabled = true, .object_store_bytes = 100, .idle_ms = 1000, .max_delay_ms = 5000};

TEST(Payload, SmallMovementsOfStoreBytesAndIdleTimeAreNoise) {
  EXPECT_TRUE(IsNoise(View(4, 1000, 5000), View(4, 1099, 5999), kNoise));
  EXPECT_TRUE(IsNoise(View(4, 1000, 5000), View(4, 1000, 5000), kNoise));
}

TEST(Payload, WhatASchedulerWouldDecideOtherwiseOnIsNoNoise) {
  EXPECT_FALSE(IsNoise(View(4, 1000, 5000), View(3, 1000, 5000), kNoise));
  EXPECT_FALSE(IsNoise(View(4, 1000, 5000), View(4, 1100, 5000), kNoise));
  EXPECT_FALSE(IsNoise(View(4, 1000, 5000), View(4, 1000, 6000), kNoise));
  EXPECT_FALSE(IsNoise(View(4, 1000, 5000), View(4, 1000, 5000, true), kNoise));
  EXPECT_FALSE(IsNoise(View(4, 50, 5000), View(4, 0, 5000), kNoise));   // ran out
  EXPECT_FALSE(IsNoise(View(4, 1000, 500), View(4, 1000, 0), kNoise));  // busy again
  EXPECT_FALSE(IsNoise(View(4, 1000, 5), View(4, 1000, 5) + Resource(8, "x", 1), kNoise));
  EXPECT_FALSE(IsNoise(View(4, 1000, 5), "\xff", kNoise));
}

TEST(Payload, OrderOfMapEntriesMeansNothing) {
  const std::string one = Resource(1, "CPU", 1) + Resource(1, "GPU", 2) + Resource(2, "CPU", 1) + Resource(2, "GPU", 2);
  const std::string two = Resource(2, "GPU", 2) + Resource(1, "GPU", 2) + Resource(2, "CPU", 1) + Resource(1, "CPU", 1);
  EXPECT_TRUE(IsNoise(one, two, kNoise));
}

TEST(Payload, UnknownFieldThatChangesIsNoNoise) {
  std::string one = View(4, 1000, 5);
  std::string two = one;
  AppendField(99, 0, 1, &one);
  AppendField(99, 0, 2, &two);
  EXPECT_FALSE(IsNoise(one, two, kNoise));
  EXPECT_TRUE(IsNoise(one, one, kNoise));
}

TEST(Payload, CommandFlagsAreReadAndAdded) {
  EXPECT_EQ(ReadCommandFlags(""), 0);
  EXPECT_EQ(ReadCommandFlags(std::string("\x08\x01", 2)), kGlobalGc);
  EXPECT_EQ(ReadCommandFlags(std::string("\x10\x01", 2)), kClusterFullOfActors);
  EXPECT_EQ(ReadCommandFlags(std::string("\x08\x01\x08\x00", 4)), 0);  // the last counts
  const std::string unknown = "\x7a\x01x";
  const std::string both = WithCommandFlags(unknown, kGlobalGc | kClusterFullOfActors);
  EXPECT_EQ(ReadCommandFlags(both), kGlobalGc | kClusterFullOfActors);
  EXPECT_TRUE(both.starts_with(unknown));
}

TEST(Payload, MalformedOnesAreTold) {
  EXPECT_TRUE(CheckPayload(MessageType::kResourceView, View(1, 2, 3)).ok());
  EXPECT_FALSE(CheckPayload(MessageType::kResourceView, "garbage").ok());
  EXPECT_FALSE(CheckPayload(MessageType::kCommands, "\xff").ok());
  // An entry of a map that ends too early.
  EXPECT_FALSE(CheckPayload(MessageType::kResourceView, std::string("\x0a\x02\x0a\x05", 4)).ok());
}

}  // namespace
}  // namespace mantaray::syncer
