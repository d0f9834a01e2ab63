// What a run takes, beside the weights, from the checkpoint that it starts from: a trained one or
// one that `plait convert` made.
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/checkpoint_reader.h"
#include "parallel/communicator.h"

namespace plait {

// FailedPrecondition where the data of `data_folder` were made with another tokenizer than any that
// the checkpoint carries: the ids would mean other texts than those the weights know. A checkpoint
// without a tokenizer is taken as it is, with a warning of the first of the ranks that call this.
absl::Status CheckSameTokenizer(const Communicator& ranks, const CheckpointReader& checkpoint,
                                const std::string& data_folder,
                                const std::string& tokenizer_digest);

// The checkpoint's attachments, bytes by name: what makes a checkpoint trained from a converted one
// a complete model folder again (config.json, tokenizer files, chat template). Errors as
// CheckpointReader::Attachment's.
absl::StatusOr<std::map<std::string, std::string>> AttachmentsOf(
    const CheckpointReader& checkpoint);

}  // namespace plait
