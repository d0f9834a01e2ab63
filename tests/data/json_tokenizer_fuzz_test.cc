// Mutated tokenizer.json files: whatever the bytes, reading them ends at once with a tokenizer that
// encodes and decodes, or with an error of one line.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "data/document_tokens.h"
#include "data/json_tokenizer.h"
#include "data/utf8.h"
#include "tests/support/fuzzing.h"

namespace plait {
namespace {

// Small files that together have every component.
const std::vector<std::string>& Seeds() {
  static const auto* const seeds = new std::vector<std::string>{
      R"({"version":"1.0","truncation":null,"padding":null,
"added_tokens":[{"id":0,"content":"<unk>","single_word":false,"lstrip":false,"rstrip":false,
"normalized":false,"special":true},{"id":1,"content":"<s>","single_word":false,"lstrip":true,
"rstrip":true,"normalized":true,"special":true}],
"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},
{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},"pre_tokenizer":null,
"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},
{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[1],
"tokens":["<s>"]}}},"decoder":{"type":"Sequence","decoders":[{"type":"Replace",
"pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip",
"content":" ","start":1,"stop":0}]},"model":{"type":"BPE","dropout":null,"unk_token":"<unk>",
"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":true,"byte_fallback":true,
"ignore_merges":false,"vocab":{"<unk>":0,"<s>":1,"<0x41>":2,"▁":3,"a":4,"b":5,"ab":6,"▁ab":7,
"é":8},"merges":["a b","▁ ab"]}})",
      R"({"version":"1.0","added_tokens":[{"id":7,"content":"QQ","single_word":true,"lstrip":false,
"rstrip":false,"normalized":true,"special":false}],"normalizer":{"type":"Sequence","normalizers":[
{"type":"NFKC"},{"type":"NFD"},{"type":"Lowercase"},{"type":"Strip","strip_left":true,
"strip_right":true}]},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split",
"pattern":{"String":","},"behavior":"MergedWithPrevious","invert":false},{"type":"Digits",
"individual_digits":true},{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,
"use_regex":true}]},"post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel",
"add_prefix_space":true,"trim_offsets":false,"use_regex":true}]},"decoder":{"type":"ByteLevel",
"add_prefix_space":true,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","vocab":{"a":0,
"b":1,"Ġ":2,"ab":3,"Ã":4,"©":5,"Ã©":6},"merges":[["a","b"],["Ã","©"]],"ignore_merges":true}})",
      R"({"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first",
"split":true},"decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always",
"split":true},"padding":{"strategy":"BatchLongest","direction":"Right","pad_to_multiple_of":null,
"pad_id":0,"pad_type_id":0,"pad_token":"<unk>"},"model":{"vocab":{"x":0,"▁":1,"▁x":2,"xx":3},
"merges":[["x","x"],["▁","x"]],"unk_token":"x","fuse_unk":false}})"};
  return *seeds;
}

constexpr char kConfig[] =
    R"({"bos_token":"<s>","eos_token":{"__type":"AddedToken","content":"a","lstrip":false},
"pad_token":null,"unk_token":"ab","model_max_length":1000000000000000019884624838656})";

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : engine_(seed) {}

  std::string Changed(std::string file) {
    for (size_t change = Below(6) + 1; change > 0 && !file.empty(); --change) Change(&file);
    return file;
  }
  std::string File() { return Changed(Pick(Seeds())); }
  std::string Text() {
    static const std::vector<std::string> kParts = {"a",   "ab",      " ",  "é",  "▁",
                                                    "<s>", "1,",      "QQ", "\n", "'s",
                                                    "x",   "e\u0301", "İ",  "A",  "\u3000"};
    std::string text;
    for (size_t part = Below(40); part > 0; --part) text += Pick(kParts);
    return text;
  }

 private:
  size_t Below(size_t end) { return engine_() % end; }
  const std::string& Pick(const std::vector<std::string>& choices) {
    return choices[Below(choices.size())];
  }

  // One quoted or bare value of the file.
  std::pair<size_t, size_t> AnyToken(const std::string& file) {
    size_t begin = file.find_first_of(":,[{", Below(file.size()));
    if (begin == std::string::npos) begin = 0;
    begin = std::min(begin + 1, file.size());
    const size_t end = std::min(file.find_first_of(",:]}", begin), file.size());
    return {begin, end - begin};
  }

  void Change(std::string* file) {
    static const std::vector<std::string> kValues = {
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "7",
        "1e9",
        "18446744073709551615",
        "\"\"",
        "\"a\"",
        "\"▁\"",
        "[]",
        "{}",
        "\"\\ud800\"",
        "\"\\u0000\"",
        "[\"a\",\"a\"]",
        "\"a a\"",
        "\"Sequence\"",
        "\"Replace\"",
        "\"ByteLevel\"",
        "\"Metaspace\"",
        "\"Strip\"",
        "\"Digits\"",
        "\"Split\"",
        "\"NFKD\"",
        "\"Fuse\"",
        "\"Contiguous\"",
        "\"Removed\"",
        "\"never\"",
        "\"String\"",
        "{\"Regex\":\"x\"}",
        "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""};
    const auto [begin, length] = AnyToken(*file);
    const size_t at = Below(file->size());
    switch (Below(8)) {
      case 0:
        (*file)[at] = static_cast<char>(Below(256));
        break;
      case 1:
        file->erase(at, Below(12) + 1);
        break;
      case 2:
        file->insert(at, 1, "\"{}[]:,\\0 "[Below(10)]);
        break;
      case 3:
        file->replace(begin, length, Pick(kValues));
        break;
      case 4: {  // one value in place of another
        const auto [from, count] = AnyToken(*file);
        file->replace(begin, length, std::string(*file, from, count));
        break;
      }
      case 5:
        file->insert(begin, std::string(*file, at, Below(200)));
        break;
      case 6:
        file->insert(begin, std::string(Below(60), "[{"[Below(2)]));
        break;
      default:
        file->replace(begin, length, Pick(kValues));
    }
  }

  std::mt19937_64 engine_;
};

void ExpectOneLine(const absl::Status& status, const std::string& name) {
  EXPECT_EQ(status.message().substr(0, name.size() + 1), name + ":") << status;
  EXPECT_EQ(status.message().find('\n'), absl::string_view::npos) << status;
}

void UseTokenizer(const JsonTokenizer& tokenizer, const std::string& text,
                  const std::string& config) {
  for (const SpecialNames names : {SpecialNames::kTokens, SpecialNames::kText}) {
    std::vector<int32_t> ids;
    const absl::Status status = tokenizer.Encode(text, names, nullptr, &ids);
    ASSERT_TRUE(status.ok()) << status;
    for (const int32_t id : ids) ASSERT_LT(id, tokenizer.vocabulary_size());
    const std::string decoded = tokenizer.Decode(ids, names == SpecialNames::kText);
    ASSERT_EQ(FirstInvalidUtf8(decoded), -1);
  }
  for (int32_t id = 0; id < std::min(tokenizer.vocabulary_size(), 16); ++id) tokenizer.BytesOf(id);
  tokenizer.is_lossless();
  ASSERT_TRUE(FindDocumentTokens(tokenizer, "", "c.json").ok());
  const auto tokens = FindDocumentTokens(tokenizer, config, "c.json");
  if (!tokens.ok()) ExpectOneLine(tokens.status(), "c.json");
}

// True where it is a tokenizer.
bool CheckFile(const std::string& file, const std::string& text, const std::string& config) {
  const absl::StatusOr<JsonTokenizer> tokenizer = JsonTokenizer::FromBytes(file, "t.json");
  if (tokenizer.ok()) {
    UseTokenizer(*tokenizer, text, config);
  } else {
    ExpectOneLine(tokenizer.status(), "t.json");
  }
  return tokenizer.ok();
}

TEST(JsonTokenizerFuzzTest, AnyBytesEndAtOnceInATokenizerOrAnError) {
  int64_t accepted = 0;
  FuzzedInputs inputs(20'000);
  for (int64_t i = 0; i < inputs.count(); ++i) {
    Mutator mutator(static_cast<uint64_t>(i));
    const std::string file = mutator.File();
    const std::string text = mutator.Text(), config = mutator.Changed(kConfig);
    inputs.Time(i, [&] { accepted += CheckFile(file, text, config) ? 1 : 0; });
    ASSERT_FALSE(HasFailure()) << "mutation " << i << ":\n" << file << "\n" << config;
  }
  // Both ways are taken often.
  EXPECT_GT(accepted, inputs.count() / 100);
  EXPECT_LT(accepted, inputs.count() * 9 / 10);
  inputs.Finish();
}

}  // namespace
}  // namespace plait
