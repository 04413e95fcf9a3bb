// What a call shares with others: the fetch of a package, the answer of a read. See proxy_call.h.

#include <string>
#include <utility>

#include "mantaray/relay/metadata.h"
#include "mantaray/relay/package_key.h"
#include "mantaray/relay/proxy_call.h"
#include "mantaray/relay/shared_methods.h"

namespace mantaray::relay {

void ProxyCall::Fetch() {
  waits_for_package_ = false;
  fetches_package_ = true;
  DeferFlush();
}

void ProxyCall::Take(const FetchedPackage& package) {
  waits_for_package_ = false;
  proxy_->metrics_->PackageShared();
  AddMetadata(package.initial, package.trailing, &server_context_);
  HeldMessage message = package.message;
  down_.Push(&message);
  status_ = grpc::Status::OK;
  DeferFlush();
}

void ProxyCall::Land(const ReadAnswer& answer) {
  flight_ = nullptr;
  waits_for_read_ = false;
  AddMetadata(answer.initial, answer.trailing, &server_context_);
  if (answer.message.held != nullptr) {
    HeldMessage message = answer.message;
    down_.Push(&message);
  }
  status_ = answer.status;
  DeferFlush();
}

ReadFlight::Question ProxyCall::Question() const {
  ReadFlight::Question question{server_context_.method(), up_.front().bytes, {}, deadline()};
  for (auto& entry : CarriedOf(server_context_.client_metadata())) {
    if (entry.first != kPathKey) {
      question.metadata.push_back(std::move(entry));
    }
  }
  // It was there when the call came, or the call would have been refused.
  question.metadata.emplace_back(kPathKey, *PathWith(server_context_.client_metadata(), proxy_->relay_id_));
  return question;
}

void ProxyCall::CountAmongReads() {
  const auto method = SharedMethodOf(server_context_.method());
  const std::string peer = server_context_.peer();
  if (method.has_value()) {
    // A flight goes over a connection of its own choice, so it could pass a write that the client has sent before. A
    // client that waits for the answer of a write reads on its own, by the way that the write took.
    shared_method_ = proxy_->reads_.Shares(*method, peer) ? method : std::nullopt;
  } else if (!IsPoll(server_context_.method())) {
    // Noted, because gRPC does not know the peer any more when the call is over.
    writes_for_ = peer;
    proxy_->reads_.WriteBegins(peer);
  }
}

void ProxyCall::JoinPackage() {
  if (started_upstream_ || waits_for_package_ || !up_.single()) {
    return;
  }
  const auto key = PackageKey(server_context_.method(), up_.front().bytes, server_context_.client_metadata());
  if (key.has_value()) {
    waits_for_package_ = true;
    proxy_->packages_.Join(*key, this);
    proxy_->WatchRoom();
  }
}

bool ProxyCall::StaysHere() { return shared_method_.has_value() ? JoinRead() : AnswersHealth(); }

bool ProxyCall::JoinRead() {
  const std::string& method = server_context_.method();
  const auto& metadata = server_context_.client_metadata();
  if (server_message_.Length() > kMaxQuestionBytes || PackageKey(method, server_message_, metadata).has_value() ||
      !PathWith(metadata, proxy_->relay_id_).has_value()) {
    return false;
  }
  waits_for_read_ = true;
  HeldMessage message = proxy_->Hold(server_message_);
  server_message_.Clear();
  const std::string key = QuestionKey(method, message.bytes, metadata);
  up_.Push(&message);
  proxy_->reads_.Join(key, this);
  return true;
}

void ProxyCall::LeaveOthers() {
  proxy_->packages_.Leave(this);
  if (waits_for_read_) {
    proxy_->reads_.Leave(this, std::exchange(flight_, nullptr));
    waits_for_read_ = false;
  }
}

void ProxyCall::LandPackage() {
  const bool fetched = upstream_status_.ok() && package_.held != nullptr;
  const FetchedPackage package{std::exchange(package_, {}), CarriedOf(client_context_.GetServerInitialMetadata()),
                               CarriedOf(client_context_.GetServerTrailingMetadata())};
  proxy_->packages_.Landed(this, fetched ? &package : nullptr);
  proxy_->WatchRoom();
}

}  // namespace mantaray::relay
