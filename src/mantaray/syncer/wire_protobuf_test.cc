// The parser and writer of wire.h and payload.h against protobuf's own, with the schemas of src/mantaray/proto.
//
// Random messages, with fields that the schema does not know, go both ways: written by protobuf and read here, written
// or changed here and read by protobuf; what they mean must be the same. And nothing may pass here that protobuf would
// refuse or read otherwise, because a GCS parses it with protobuf: damaged messages are tried for that. (The other way
// round is fine: groups, for one, are refused here.)

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/message.h>
#include <google/protobuf/unknown_field_set.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "mantaray/syncer/payload.h"
#include "mantaray/syncer/wire.h"

namespace mantaray::syncer {
namespace {

namespace pb = google::protobuf;

constexpr int kRounds = 2'000;
constexpr char kSchema[] = "src/mantaray/proto/ray_syncer.descriptor";

// Messages of the schema, made at run time.
class Schema {
 public:
  Schema() {
    std::ifstream input(kSchema, std::ios::binary);
    pb::FileDescriptorSet files;
    EXPECT_TRUE(files.ParseFromIstream(&input)) << kSchema;
    file_ = pool_.BuildFile(files.file(0));
  }

  std::unique_ptr<pb::Message> New(const std::string& name) {
    return std::unique_ptr<pb::Message>(factory_.GetPrototype(file_->FindMessageTypeByName(name))->New());
  }

 private:
  pb::DescriptorPool pool_;
  pb::DynamicMessageFactory factory_;
  const pb::FileDescriptor* file_ = nullptr;
};

const pb::FieldDescriptor* FieldOf(const pb::Message& message, const std::string& name) {
  return message.GetDescriptor()->FindFieldByName(name);
}

int64_t Int64(const pb::Message& message, const std::string& name) {
  return message.GetReflection()->GetInt64(message, FieldOf(message, name));
}

int Enum(const pb::Message& message, const std::string& name) {
  return message.GetReflection()->GetEnumValue(message, FieldOf(message, name));
}

std::string Bytes(const pb::Message& message, const std::string& name) {
  return message.GetReflection()->GetString(message, FieldOf(message, name));
}

void Set(pb::Message* message, const std::string& name, const std::string& value) {
  message->GetReflection()->SetString(message, FieldOf(*message, name), value);
}

void Set(pb::Message* message, const std::string& name, int64_t value) {
  message->GetReflection()->SetInt64(message, FieldOf(*message, name), value);
}

bool Same(const pb::Message& one, const pb::Message& other) { return pb::util::MessageDifferencer::Equals(one, other); }

class WireAgainstProtobuf : public ::testing::Test {
 protected:
  uint64_t Below(uint64_t end) { return random_() % end; }
  bool Chance(int percent) { return Below(100) < static_cast<uint64_t>(percent); }

  // Of all magnitudes, so that varints have all lengths.
  uint64_t AnyInteger() { return random_() >> Below(64); }
  int64_t AnyVersion() { return static_cast<int64_t>(AnyInteger() >> 1); }

  std::string AnyBytes(size_t size) {
    std::string bytes(size, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random_());
    return bytes;
  }

  std::string AnyText() {
    std::string text(Below(12), '\0');
    for (char& letter : text) letter = static_cast<char>('a' + Below(26));
    return text;
  }

  void AddUnknown(pb::Message* message) {
    pb::UnknownFieldSet* fields = message->GetReflection()->MutableUnknownFields(message);
    for (uint64_t left = Below(4); left > 0; --left) {
      const int number = static_cast<int>(2'000 + Below(1 << 20));
      switch (Below(4)) {
        case 0:
          fields->AddVarint(number, AnyInteger());
          break;
        case 1:
          fields->AddFixed32(number, static_cast<uint32_t>(random_()));
          break;
        case 2:
          fields->AddFixed64(number, random_());
          break;
        default:
          fields->AddLengthDelimited(number, AnyBytes(Below(20)));
      }
    }
  }

  void SetAny(pb::Message* message, const pb::FieldDescriptor* field) {
    const pb::Reflection* reflection = message->GetReflection();
    switch (field->type()) {
      case pb::FieldDescriptor::TYPE_BOOL:
        return reflection->SetBool(message, field, Chance(50));
      case pb::FieldDescriptor::TYPE_INT64:
        return reflection->SetInt64(message, field, AnyVersion());
      case pb::FieldDescriptor::TYPE_DOUBLE:
        return reflection->SetDouble(message, field, static_cast<double>(AnyInteger()) / 16);
      case pb::FieldDescriptor::TYPE_STRING:
        return field->is_repeated() ? reflection->AddString(message, field, AnyText())
                                    : reflection->SetString(message, field, AnyText());
      case pb::FieldDescriptor::TYPE_MESSAGE: {
        // An entry of a map. Numbered, because keys do not repeat on the wire either.
        pb::Message* entry = reflection->AddMessage(message, field);
        Set(entry, "key", AnyText() + std::to_string(++keys_));
        return SetAny(entry, FieldOf(*entry, "value"));
      }
      default:
        ADD_FAILURE() << "no random value for " << field->full_name();
    }
  }

  std::unique_ptr<pb::Message> AnyPayload(const std::string& name) {
    std::unique_ptr<pb::Message> payload = schema_.New(name);
    for (int i = 0; i < payload->GetDescriptor()->field_count(); ++i) {
      const pb::FieldDescriptor* field = payload->GetDescriptor()->field(i);
      for (uint64_t left = field->is_repeated() ? Below(4) : Below(2); left > 0; --left) SetAny(payload.get(), field);
    }
    AddUnknown(payload.get());
    return payload;
  }

  // One that a relay takes.
  std::unique_ptr<pb::Message> AnyMessage() {
    std::unique_ptr<pb::Message> message = schema_.New("RaySyncMessage");
    const bool commands = Chance(30);
    if (Chance(90)) Set(message.get(), "version", AnyVersion());
    message->GetReflection()->SetEnumValue(message.get(), FieldOf(*message, "message_type"), commands ? 1 : 0);
    const auto payload = AnyPayload(commands ? "CommandsSyncMessage" : "ResourceViewSyncMessage");
    if (Chance(90)) Set(message.get(), "sync_message", payload->SerializeAsString());
    Set(message.get(), "node_id", AnyBytes(kNodeIdBytes));
    AddUnknown(message.get());
    return message;
  }

  std::unique_ptr<pb::Message> Read(const std::string& name, std::string_view bytes) {
    std::unique_ptr<pb::Message> message = schema_.New(name);
    return message->ParseFromString(std::string(bytes)) ? std::move(message) : nullptr;
  }

  std::string Damaged(std::string bytes) {
    for (uint64_t left = 1 + Below(3); left > 0 && !bytes.empty(); --left) {
      const size_t at = Below(bytes.size());
      switch (Below(5)) {
        case 0:
          bytes[at] = static_cast<char>(random_());
          break;
        case 1:
          bytes.erase(at, 1 + Below(4));
          break;
        case 2:
          bytes.insert(at, AnyBytes(1 + Below(4)));
          break;
        case 3:
          // A number in more bytes than it needs.
          bytes[at] = static_cast<char>(bytes[at] | 0x80);
          bytes.insert(at + 1, std::string(Below(10), '\x80') + '\0');
          break;
        default:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << Below(8)));
      }
    }
    return bytes;
  }

  void ExpectSame(const SyncMessage& ours, const pb::Message& theirs) {
    EXPECT_EQ(ours.version, Int64(theirs, "version"));
    EXPECT_EQ(static_cast<int>(ours.type), Enum(theirs, "message_type"));
    EXPECT_EQ(ours.payload, Bytes(theirs, "sync_message"));
    EXPECT_EQ(ours.node_id.view(), Bytes(theirs, "node_id"));
  }

  Schema schema_;
  std::mt19937_64 random_{20'260};
  int keys_ = 0;
};

TEST_F(WireAgainstProtobuf, MessagesThatProtobufWroteAreReadAlikeAndTravelWhole) {
  for (int round = 0; round < kRounds; ++round) {
    const auto message = AnyMessage();
    const std::string bytes = message->SerializeAsString();
    const auto ours = ParseMessage(bytes, {});
    ASSERT_TRUE(ours.ok()) << ours.status() << message->DebugString();
    ExpectSame(*ours, *message);
    const auto again = Read("RaySyncMessage", ours->bytes);
    ASSERT_NE(again, nullptr);
    EXPECT_TRUE(Same(*again, *message));
  }
}

TEST_F(WireAgainstProtobuf, WhatIsRefusedIsWhatAGcsDiesOf) {
  for (int round = 0; round < kRounds; ++round) {
    const auto message = AnyMessage();
    if (Chance(30)) Set(message.get(), "version", static_cast<int64_t>(random_()));
    if (Chance(30)) {
      message->GetReflection()->SetEnumValue(message.get(), FieldOf(*message, "message_type"),
                                             static_cast<int>(AnyInteger()));
    }
    if (Chance(30)) Set(message.get(), "node_id", AnyBytes(Below(40)));
    const int type = Enum(*message, "message_type");
    const bool sound = Int64(*message, "version") >= 0 && (type == 0 || type == 1) &&
                       Bytes(*message, "node_id").size() == kNodeIdBytes;
    EXPECT_EQ(ParseMessage(message->SerializeAsString(), {}).ok(), sound) << message->DebugString();
  }
}

TEST_F(WireAgainstProtobuf, RepeatedFieldsAreMergedAlike) {
  for (int round = 0; round < kRounds; ++round) {
    const std::string bytes = AnyMessage()->SerializeAsString() + AnyMessage()->SerializeAsString();
    const auto theirs = Read("RaySyncMessage", bytes);
    ASSERT_NE(theirs, nullptr);
    const auto ours = ParseMessage(bytes, {});
    ASSERT_TRUE(ours.ok());
    ExpectSame(*ours, *theirs);
  }
}

TEST_F(WireAgainstProtobuf, WrittenMessagesMeanTheSameToProtobuf) {
  for (int round = 0; round < kRounds; ++round) {
    const auto message = AnyMessage();
    message->GetReflection()->MutableUnknownFields(message.get())->Clear();
    const NodeId node = *NodeId::FromBinary(Bytes(*message, "node_id"));
    const auto type = static_cast<MessageType>(Enum(*message, "message_type"));
    const auto theirs =
        Read("RaySyncMessage", EncodeMessage(Int64(*message, "version"), type, node, Bytes(*message, "sync_message")));
    ASSERT_NE(theirs, nullptr);
    EXPECT_TRUE(Same(*theirs, *message));
  }
}

TEST_F(WireAgainstProtobuf, AChangeLeavesEverythingElseAsItWas) {
  for (int round = 0; round < kRounds; ++round) {
    const auto message = AnyMessage();
    const int64_t version = AnyVersion();
    const std::string payload = AnyBytes(Below(50));
    const std::string changed = WithPayload(WithVersion(message->SerializeAsString(), version), payload);
    Set(message.get(), "version", version);
    Set(message.get(), "sync_message", payload);
    const auto theirs = Read("RaySyncMessage", changed);
    ASSERT_NE(theirs, nullptr);
    EXPECT_TRUE(Same(*theirs, *message));
  }
}

TEST_F(WireAgainstProtobuf, BatchesMeanTheSameBothWays) {
  for (int round = 0; round < kRounds / 4; ++round) {
    const auto batch = schema_.New("RaySyncMessageBatch");
    const pb::Reflection* reflection = batch->GetReflection();
    const pb::FieldDescriptor* messages = FieldOf(*batch, "messages");
    for (uint64_t left = 1 + Below(5); left > 0; --left) {
      reflection->AddMessage(batch.get(), messages)->CopyFrom(*AnyMessage());
    }
    const bool between_relays = Chance(50);
    if (between_relays) {
      Set(batch.get(), "relay_digest", AnyBytes(1 + Below(40)));
      reflection->SetUInt64(batch.get(), FieldOf(*batch, "relay_repair_request"), 1 + AnyInteger() / 2);
      reflection->SetUInt64(batch.get(), FieldOf(*batch, "relay_complete_buckets"), 1 + AnyInteger() / 2);
    }
    const std::string bytes = batch->SerializeAsString();
    ASSERT_EQ(DialectOf(bytes), Dialect::kBatch);
    const auto split = Split(bytes, {});
    ASSERT_TRUE(split.ok()) << split.status();
    ASSERT_EQ(static_cast<int>(split->messages.size()), reflection->FieldSize(*batch, messages));

    std::string written;
    for (size_t i = 0; i < split->messages.size(); ++i) {
      const auto message = ParseMessage(split->messages[i], {});
      ASSERT_TRUE(message.ok()) << message.status();
      ExpectSame(*message, reflection->GetRepeatedMessage(*batch, messages, static_cast<int>(i)));
      AppendBatchEntry(message->bytes, &written);
    }
    if (between_relays) {
      AppendRelayDigest(*split->relay_digest, &written);
      AppendRepairRequest(split->repair_request, &written);
      AppendCompleteBuckets(split->complete_buckets, &written);
    }
    const auto theirs = Read("RaySyncMessageBatch", written);
    ASSERT_NE(theirs, nullptr);
    EXPECT_TRUE(Same(*theirs, *batch));
  }
}

TEST_F(WireAgainstProtobuf, NothingDamagedPassesThatProtobufReadsOtherwise) {
  int passed = 0;
  for (int round = 0; round < 20 * kRounds; ++round) {
    const std::string bytes = Damaged(AnyMessage()->SerializeAsString());
    const auto ours = ParseMessage(bytes, {});
    if (!ours.ok()) continue;
    const auto theirs = Read("RaySyncMessage", bytes);
    ASSERT_NE(theirs, nullptr) << "protobuf refuses what passed here";
    ExpectSame(*ours, *theirs);
    ++passed;
  }
  EXPECT_GT(passed, 20 * kRounds / 20);
}

TEST_F(WireAgainstProtobuf, NoDamagedBatchPassesThatProtobufSplitsOtherwise) {
  for (int round = 0; round < 5 * kRounds; ++round) {
    std::string bytes;
    for (uint64_t left = 1 + Below(3); left > 0; --left) AppendBatchEntry(AnyMessage()->SerializeAsString(), &bytes);
    bytes = Damaged(bytes);
    const auto split = Split(bytes, {});
    if (!split.ok() || split->dialect != Dialect::kBatch) continue;
    const auto sound = [](std::string_view message) { return ParseMessage(message, {}).ok(); };
    if (!std::all_of(split->messages.begin(), split->messages.end(), sound)) continue;
    const auto theirs = Read("RaySyncMessageBatch", bytes);
    ASSERT_NE(theirs, nullptr) << "protobuf refuses what passed here";
    const pb::FieldDescriptor* messages = FieldOf(*theirs, "messages");
    ASSERT_EQ(theirs->GetReflection()->FieldSize(*theirs, messages), static_cast<int>(split->messages.size()));
    for (size_t i = 0; i < split->messages.size(); ++i) {
      ExpectSame(*ParseMessage(split->messages[i], {}),
                 theirs->GetReflection()->GetRepeatedMessage(*theirs, messages, static_cast<int>(i)));
    }
  }
}

TEST_F(WireAgainstProtobuf, PayloadsThatProtobufWroteAreTaken) {
  for (int round = 0; round < kRounds; ++round) {
    for (const MessageType type : {MessageType::kResourceView, MessageType::kCommands}) {
      const char* name = type == MessageType::kCommands ? "CommandsSyncMessage" : "ResourceViewSyncMessage";
      const absl::Status status = CheckPayload(type, AnyPayload(name)->SerializeAsString());
      EXPECT_TRUE(status.ok()) << status;
    }
  }
}

TEST_F(WireAgainstProtobuf, CommandsAreReadAndSetAlike) {
  for (int round = 0; round < kRounds; ++round) {
    const auto commands = AnyPayload("CommandsSyncMessage");
    const pb::Reflection* reflection = commands->GetReflection();
    const char* names[] = {"should_global_gc", "cluster_full_of_actors_detected"};
    const std::string bytes = commands->SerializeAsString();
    const auto added = static_cast<uint8_t>(Below(4));
    for (size_t bit = 0; bit < std::size(kCommandFlags); ++bit) {
      const pb::FieldDescriptor* field = FieldOf(*commands, names[bit]);
      EXPECT_EQ((ReadCommandFlags(bytes) & kCommandFlags[bit]) != 0, reflection->GetBool(*commands, field));
      if ((added & kCommandFlags[bit]) != 0) reflection->SetBool(commands.get(), field, true);
    }
    const auto theirs = Read("CommandsSyncMessage", WithCommandFlags(bytes, added));
    ASSERT_NE(theirs, nullptr);
    EXPECT_TRUE(Same(*theirs, *commands));
  }
}

TEST_F(WireAgainstProtobuf, NoiseIsWhatChangesNothingButStoreBytesAndIdleTime) {
  NoiseOptions options;
  options.enabled = true;
  for (int round = 0; round < kRounds; ++round) {
    const auto before = AnyPayload("ResourceViewSyncMessage");
    const auto entry = [](pb::Message* view) {
      pb::Message* added = view->GetReflection()->AddMessage(view, FieldOf(*view, "resources_available"));
      Set(added, "key", std::string("object_store_memory"));
      return added;
    };
    const auto after = std::unique_ptr<pb::Message>(before->New());
    after->CopyFrom(*before);
    for (const auto& [view, amount] : {std::pair{before.get(), 1e9}, std::pair{after.get(), 1e9 + 5'000}}) {
      pb::Message* memory = entry(view);
      memory->GetReflection()->SetDouble(memory, FieldOf(*memory, "value"), amount);
    }
    Set(before.get(), "idle_duration_ms", int64_t{1'000});
    Set(after.get(), "idle_duration_ms", int64_t{2'000});
    EXPECT_TRUE(IsNoise(before->SerializeAsString(), after->SerializeAsString(), options));

    // Anything else is news.
    const pb::FieldDescriptor* fields[] = {FieldOf(*after, "resources_available"), FieldOf(*after, "resources_total"),
                                           FieldOf(*after, "node_activity"), FieldOf(*after, "labels")};
    SetAny(after.get(), fields[Below(std::size(fields))]);
    EXPECT_FALSE(IsNoise(before->SerializeAsString(), after->SerializeAsString(), options));
  }
}

}  // namespace
}  // namespace mantaray::syncer
