// See upstream_stream.h.

#include "mantaray/relay/upstream_stream.h"

#include <string>
#include <utility>

#include "mantaray/relay/log.h"
#include "mantaray/relay/wire_bytes.h"
#include "mantaray/syncer/wire.h"

namespace mantaray::relay {

UpstreamStream::UpstreamStream(EventLoop* loop, syncer::RelayCore* core, Callbacks callbacks)
    : loop_(loop),
      core_(core),
      callbacks_(std::move(callbacks)),
      started_(loop, this, &UpstreamStream::OnStart),
      metadata_(loop, this, &UpstreamStream::OnMetadata),
      read_(loop, this, &UpstreamStream::OnRead),
      written_(loop, this, &UpstreamStream::OnWrite),
      finished_(loop, this, &UpstreamStream::OnFinish) {}

UpstreamStream* UpstreamStream::Open(grpc::GenericStub* stub, EventLoop* loop, grpc::CompletionQueue* polled,
                                     syncer::RelayCore* core, const OwnedMetadata& metadata, Callbacks callbacks) {
  auto* stream = new UpstreamStream(loop, core, std::move(callbacks));
  for (const auto& [key, value] : metadata) {
    stream->context_.AddMetadata(key, value);
  }
  stream->stream_ = stub->PrepareCall(&stream->context_, std::string(syncer::kStartSyncMethod), polled);
  stream->BeginOne();  // the stream itself, until OnFinish
  stream->BeginOne();
  stream->BeginOne();
  stream->writing_ = true;
  stream->stream_->StartCall(&stream->started_);
  stream->stream_->ReadInitialMetadata(&stream->metadata_);
  return stream;
}

void UpstreamStream::Cancel() { context_.TryCancel(); }

void UpstreamStream::WriteReady() { DeferPump(); }

void UpstreamStream::Close(const absl::Status& status) {
  id_ = syncer::kNoStream;
  refused_ = ToGrpc(status);
  context_.TryCancel();
}

void UpstreamStream::OnStart(bool ok) {
  writing_ = false;
  if (!EndOne() && ok) {
    Pump();
  }
}

void UpstreamStream::OnMetadata(bool ok) {
  if (EndOne()) {
    return;
  }
  OwnedMetadata answer;
  bool accepted = false;
  if (ok) {
    for (const auto& [key, value] : context_.GetServerInitialMetadata()) {
      accepted = accepted || key == "node_id";
      answer.emplace_back(ToString(key), ToString(value));
    }
  }
  if (!accepted) {
    FinishOnce();
    return;
  }
  const absl::StatusOr<syncer::StreamId> id = core_->UpstreamConnected(answer, this);
  if (!id.ok()) {
    refused_ = ToGrpc(id.status());
    context_.TryCancel();
    FinishOnce();
    return;
  }
  id_ = *id;
  callbacks_.connected(answer);
  Read();
  Pump();
  callbacks_.acted();
}

void UpstreamStream::Read() {
  BeginOne();
  stream_->Read(&message_, &read_);
}

void UpstreamStream::OnRead(bool ok) {
  if (EndOne()) {
    return;
  }
  if (!ok) {
    FinishOnce();
    return;
  }
  if (id_ != syncer::kNoStream) {
    const FlatBytes bytes(message_);
    const uint64_t stale = core_->metrics().stale;
    core_->OnUpstreamBytes(id_, bytes.view());
    if (const uint64_t dropped = core_->metrics().stale - stale; dropped > 0) {
      LogDebug("stale messages dropped", {{"from", "upstream"}, {"count", std::to_string(dropped)}});
    }
  }
  message_.Clear();
  Read();
  callbacks_.acted();
}

void UpstreamStream::Pump() {
  if (writing_ || finishing_ || id_ == syncer::kNoStream) {
    return;
  }
  const std::optional<syncer::Frame> frame = core_->Take(id_);
  if (!frame.has_value()) {
    return;
  }
  writing_ = true;
  BeginOne();
  stream_->Write(ToByteBuffer(*frame), &written_);
}

void UpstreamStream::OnWrite(bool ok) {
  writing_ = false;
  if (!EndOne() && ok) {
    Pump();
    callbacks_.acted();
  }
}

void UpstreamStream::DeferPump() {
  if (pump_deferred_) {
    return;
  }
  pump_deferred_ = true;
  BeginOne();
  loop_->Defer([this] {
    pump_deferred_ = false;
    if (!EndOne()) {
      Pump();
    }
  });
}

void UpstreamStream::FinishOnce() {
  if (!finishing_) {
    finishing_ = true;
    BeginOne();
    stream_->Finish(&status_, &finished_);
  }
}

void UpstreamStream::OnFinish(bool /*ok*/) {
  if (id_ != syncer::kNoStream) {
    core_->UpstreamLost(std::exchange(id_, syncer::kNoStream));
    callbacks_.acted();
  }
  if (!refused_.ok()) {
    status_ = refused_;
  }
  EndOne();
  EndOne();
}

void UpstreamStream::LastEnded() { callbacks_.ended(status_); }

}  // namespace mantaray::relay
