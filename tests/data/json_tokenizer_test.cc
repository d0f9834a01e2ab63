#include "data/json_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <sstream>

#include "base/digest.h"
#include "tests/data/tokenizer_fixtures.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr size_t kBlock = 100;

const std::vector<std::string>& Strings() {
  static const auto* const strings = new std::vector<std::string>(ComparedStrings());
  return *strings;
}

// What the digests of the fixtures are made of.
class Digested {
 public:
  void AddIds(const std::vector<int32_t>& ids) {
    AddNumber(ids.size());
    for (const int32_t id : ids) AddNumber(static_cast<size_t>(id));
  }
  void AddText(const std::string& text) {
    AddNumber(text.size());
    bytes_ += text;
  }
  std::string Hex() const { return DigestOf(bytes_.data(), bytes_.size()); }

 private:
  void AddNumber(size_t number) {
    const uint32_t word = static_cast<uint32_t>(number);
    for (int shift = 0; shift < 32; shift += 8)
      bytes_.push_back(static_cast<char>(word >> shift & 0xff));
  }

  std::string bytes_;
};

absl::StatusOr<std::vector<int32_t>> Encode(const JsonTokenizer& tokenizer, const std::string& text,
                                            SpecialNames names, WordCache* cache) {
  std::vector<int32_t> ids;
  const absl::Status status = tokenizer.Encode(text, names, cache, &ids);
  if (!status.ok()) return status;
  return ids;
}

std::vector<int32_t> Around(const PostProcessor& processor, std::vector<int32_t> ids) {
  ids.insert(ids.begin(), processor.before().begin(), processor.before().end());
  ids.insert(ids.end(), processor.after().begin(), processor.after().end());
  return ids;
}

class JsonTokenizerComparedTest : public ::testing::TestWithParam<const char*> {};

TEST_P(JsonTokenizerComparedTest, IdsAndTextsAreThoseOfThePackage) {
  const std::string kind = GetParam();
  ASSERT_OK_AND_ASSIGN(
      const JsonTokenizer tokenizer,
      JsonTokenizer::FromBytes(ReadFixture(kind + ".json"), kind + "/tokenizer.json"));
  const std::vector<std::string> lines = LinesOf(ReadFixture(kind + ".digests"));
  ASSERT_EQ(Strings().size(), 10'000u);
  ASSERT_EQ(lines.size() * kBlock, Strings().size());
  WordCache cache;
  for (size_t block = 0; block < lines.size(); ++block) {
    Digested digested[4];
    for (size_t i = block * kBlock; i < (block + 1) * kBlock; ++i) {
      const std::string& text = Strings()[i];
      ASSERT_OK_AND_ASSIGN(std::vector<int32_t> ids,
                           Encode(tokenizer, text, SpecialNames::kTokens, &cache));
      ids = Around(tokenizer.post_processor(), ids);
      digested[0].AddIds(ids);
      ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> as_text,
                           Encode(tokenizer, text, SpecialNames::kText, nullptr));
      digested[1].AddIds(as_text);
      digested[2].AddText(tokenizer.Decode(ids, /*skip_special=*/true));
      std::reverse(ids.begin(), ids.end());
      digested[3].AddText(tokenizer.Decode(ids, /*skip_special=*/false));
    }
    std::istringstream expected(lines[block]);
    const char* const columns[] = {"ids", "ids of text alone", "text", "text of reversed ids"};
    for (int column = 0; column < 4; ++column) {
      std::string digest;
      expected >> digest;
      EXPECT_EQ(digested[column].Hex(), digest)
          << kind << ": " << columns[column] << " of strings " << block * kBlock << " to "
          << (block + 1) * kBlock - 1;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, JsonTokenizerComparedTest,
                         ::testing::Values("llama2", "jamba", "metaspace", "gpt2", "llama3",
                                           "qwen2", "digits", "unknown", "fused"),
                         [](const auto& kind) { return std::string(kind.param); });

// A file with these parts; "" leaves one out.
std::string File(const std::string& parts,
                 const std::string& model = R"("vocab":{"a":0,"b":1,"ab":2},"merges":["a b"])") {
  return "{" + parts + (parts.empty() ? "" : ",") + R"("model":{"type":"BPE",)" + model + "}}";
}

std::string Token(int id, const std::string& content, const std::string& flags = "") {
  return R"({"id":)" + std::to_string(id) + R"(,"content":")" + content +
         R"(","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true)" +
         flags + "}";
}

struct Refused {
  std::string file;
  const char* message;
};

TEST(JsonTokenizerTest, WhatIsNotSupportedIsRefusedByNameAndPlace) {
  const Refused kRefused[] = {
      {"[]", "t.json: expected an object, found an array"},
      {"{", "t.json: not JSON"},
      {std::string(40, '['), "t.json: not JSON"},
      {"{}", "t.json: model: is missing"},
      {File(R"("colour":1)"), "t.json: colour: not supported"},
      {File(R"("decoder":null,"decoder":null)"), "t.json: decoder: is there twice"},
      {R"({"model":{"type":"WordPiece","vocab":{},"merges":[]}})",
       "t.json: model.type: WordPiece is not supported; supported: BPE"},
      {File("", R"("dropout":0.1,"vocab":{"a":0},"merges":[])"), "t.json: model.dropout"},
      {File("", R"("end_of_word_suffix":"</w>","vocab":{"a":0},"merges":[])"),
       "t.json: model.end_of_word_suffix: not supported unless empty"},
      {File("", R"("unk_token":"?","vocab":{"a":0},"merges":[])"), "\"?\" is not in the vocab"},
      {File("", R"("vocab":{"a":0,"a":1},"merges":[])"), "model.vocab: \"a\" is there twice"},
      {File("", R"("vocab":{"a":0,"b":0},"merges":[])"), "model.vocab: id 0 is there twice"},
      {File("", R"("vocab":{"a":0,"b":2},"merges":[])"), "\"b\" has id 2, expected 0 to 1"},
      {File("", R"("vocab":{"a":0,"b":-1},"merges":[])"), "\"b\" has id -1"},
      {File("", R"("vocab":{"a":"0"},"merges":[])"), "\"a\" has no number"},
      {File("", R"("vocab":{},"merges":[])"), "model.vocab is empty"},
      {File("", R"("vocab":{"a":0,"b":1},"merges":["a b"])"),
       "t.json: model.merges[0]: \"ab\" is not in the vocab"},
      {File("", R"("vocab":{"a":0,"aa":1},"merges":["a a",["a","c"]])"),
       "t.json: model.merges[1]: \"c\" is not in the vocab"},
      {File("", R"("vocab":{"a":0},"merges":["a a a"])"), "expected two pieces"},
      {File("", R"("vocab":{"a":0},"merges":[["a"]])"), "expected two strings"},
      {File(R"("truncation":{"max_length":8})"), "t.json: truncation: not supported"},
      {File(R"("padding":{"strategy":{"Fixed":8}})"), "t.json: padding: only strategy"},
      {File(R"("normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Nmt"}]})"),
       "t.json: normalizer.normalizers[1].type: Nmt is not supported"},
      {File(R"("normalizer":{"type":"Replace","pattern":{"Regex":" +"},"content":""})"),
       "t.json: normalizer.pattern.Regex: \" +\" is not supported"},
      {File(R"("normalizer":{"type":"Replace","pattern":{"String":"a"},"content":")" +
            std::string(65, 'a') + "\"}"),
       "normalizer.content: makes a text more than 64 times as long"},
      {File(R"("pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Digits",)"
            R"("individual_digits":true},{"type":"Punctuation","behavior":"Isolated"}]})"),
       "t.json: pre_tokenizer.pretokenizers[1].type: Punctuation is not supported"},
      {File(R"("pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\d+"},)"
            R"("behavior":"Isolated","invert":false})"),
       "t.json: pre_tokenizer.pattern.Regex: \"\\d+\" is not supported"},
      {File(R"("pre_tokenizer":{"type":"Metaspace","replacement":"ab"})"),
       "pre_tokenizer.replacement: expected one character"},
      {File(R"("pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"last"})"),
       "pre_tokenizer.prepend_scheme: last is not supported"},
      {File(R"("normalizer":{"type":"NFKD"},"pre_tokenizer":{"type":"Sequence","pretokenizers":[)"
            R"({"type":"Digits","individual_digits":true},{"type":"Metaspace","replacement":"_",)"
            R"("prepend_scheme":"first"}]})"),
       "t.json: pre_tokenizer: prepend_scheme first after other steps is not supported"},
      {File(R"("post_processor":{"type":"BertProcessing","sep":["a",0],"cls":["a",0]})"),
       "t.json: post_processor.type: BertProcessing is not supported"},
      {File(R"("post_processor":{"type":"TemplateProcessing","single":[],"special_tokens":{}})"),
       "post_processor.single: has no Sequence A"},
      {File(R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x",)"
            R"("type_id":0}}],"special_tokens":{}})"),
       "post_processor.single[0].SpecialToken.id: \"x\" is not among the special_tokens"},
      {File(R"("decoder":{"type":"WordPiece","prefix":"","cleanup":true})"),
       "t.json: decoder.type: WordPiece is not supported"},
      {File(R"("added_tokens":[)" + Token(5, "<s>") + "]"),
       "t.json: added_tokens[0].id: \"<s>\" has id 5, expected 3"},
      {File(R"("added_tokens":[)" + Token(3, "x") + "," + Token(4, "x") + "]"),
       "t.json: added_tokens[1].content: \"x\" is there twice"},
      {File(R"("added_tokens":[)" + Token(3, "x", R"(,"colour":1)") + "]"),
       "t.json: added_tokens[0].colour: not supported"},
      {File("", "\"vocab\":{\"\\n\":1},\"merges\":[]"), "model.vocab: \"\\x0a\" has id 1"},
  };
  for (const Refused& refused : kRefused) {
    EXPECT_THAT(JsonTokenizer::FromBytes(refused.file, "t.json"),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(refused.message)))
        << refused.file;
  }
}

// Texts and pieces as the package gives them.
TEST(JsonTokenizerTest, TheFirstWordGetsASpaceOnlyWhereItBeginsTheText) {
  const struct {
    const char* normalizer;
    const char* text;
    const char* pieces;
  } kCases[] = {
      {R"({"type":"Strip","strip_left":true,"strip_right":false})", " a", "a"},
      {R"({"type":"Strip","strip_left":true,"strip_right":false})", "a b", "▁a ▁b"},
      {R"({"type":"Replace","pattern":{"String":"bb"},"content":"a"})", "bba", "a a"},
      {R"({"type":"Replace","pattern":{"String":"bb"},"content":"a"})", "ba", "▁b a"},
      {R"({"type":"Replace","pattern":{"String":"b"},"content":""})", "ba", "a"},
      {R"({"type":"Replace","pattern":{"String":"b"},"content":""})", " ab", "▁a"},
  };
  for (const auto& example : kCases) {
    ASSERT_OK_AND_ASSIGN(
        const JsonTokenizer tokenizer,
        JsonTokenizer::FromBytes(
            File(std::string(R"("normalizer":)") + example.normalizer +
                     R"(,"pre_tokenizer":{"type":"Metaspace","replacement":"▁",)"
                     R"("prepend_scheme":"first"})",
                 R"("vocab":{"a":0,"▁":1,"▁a":2,"b":3,"▁b":4},"merges":["▁ a","▁ b"])"),
            "t.json"));
    std::string pieces;
    ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> ids,
                         Encode(tokenizer, example.text, SpecialNames::kText, nullptr));
    for (const int32_t id : ids) {
      if (!pieces.empty()) pieces += ' ';
      pieces += tokenizer.PieceOf(id);
    }
    EXPECT_EQ(pieces, example.pieces) << example.normalizer << " " << example.text;
  }
}

// "▁" is dropped as well: there is no cut at it.
TEST(JsonTokenizerTest, PiecesMeetWhereUnknownCharactersAreDropped) {
  ASSERT_OK_AND_ASSIGN(const JsonTokenizer tokenizer,
                       JsonTokenizer::FromBytes(
                           File("", R"("vocab":{"a":0,"b":1,"ab":2},"merges":["a b"])"), "t.json"));
  for (const char* text : {"a▁b", "a▁▁b", "axb", "▁ab▁"}) {
    EXPECT_THAT(*Encode(tokenizer, text, SpecialNames::kText, nullptr), ElementsAre(2)) << text;
  }
}

TEST(JsonTokenizerTest, SpecialNamesAreTokensInAPromptAndTextInADocument) {
  ASSERT_OK_AND_ASSIGN(
      const JsonTokenizer tokenizer,
      JsonTokenizer::FromBytes(File(R"("added_tokens":[)" + Token(2, "ab") + "]"), "t.json"));
  EXPECT_THAT(*Encode(tokenizer, "aab", SpecialNames::kTokens, nullptr), ElementsAre(0, 2));
  EXPECT_TRUE(tokenizer.IsSpecial(2));
  EXPECT_EQ(tokenizer.Decode(std::vector<int32_t>{0, 2, 1}, /*skip_special=*/true), "a b");
  EXPECT_THAT(Encode(tokenizer, "a\xff", SpecialNames::kText, nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("invalid UTF-8 at byte 1")));
}

TEST(JsonTokenizerTest, BytesOfIdsAddUpToTheTextWhereNothingIsLost) {
  for (const char* kind : {"gpt2", "llama3"}) {
    ASSERT_OK_AND_ASSIGN(const JsonTokenizer tokenizer,
                         JsonTokenizer::FromBytes(ReadFixture(std::string(kind) + ".json"), kind));
    EXPECT_TRUE(tokenizer.is_lossless());
    for (size_t i = 0; i < Strings().size(); i += 7) {
      ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> ids,
                           Encode(tokenizer, Strings()[i], SpecialNames::kText, nullptr));
      std::string bytes;
      for (const int32_t id : ids) bytes += tokenizer.BytesOf(id);
      EXPECT_EQ(bytes, Strings()[i]) << kind;
    }
  }
  for (const char* kind : {"llama2", "qwen2", "digits", "unknown"}) {
    ASSERT_OK_AND_ASSIGN(const JsonTokenizer tokenizer,
                         JsonTokenizer::FromBytes(ReadFixture(std::string(kind) + ".json"), kind));
    EXPECT_FALSE(tokenizer.is_lossless()) << kind;
  }
}

// A quadratic merge would take minutes for a word of a million characters.
TEST(JsonTokenizerTest, ALongWordTakesNoLongTime) {
  ASSERT_OK_AND_ASSIGN(const JsonTokenizer tokenizer,
                       JsonTokenizer::FromBytes(ReadFixture("gpt2.json"), "gpt2"));
  const std::string word(1'000'000, 'a');
  const auto start = std::chrono::steady_clock::now();
  ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> ids,
                       Encode(tokenizer, word, SpecialNames::kText, nullptr));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  EXPECT_EQ(tokenizer.Decode(ids, /*skip_special=*/true), word);
}

}  // namespace
}  // namespace plait
