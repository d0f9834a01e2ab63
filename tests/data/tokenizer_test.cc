#include "data/tokenizer.h"

#include <numeric>

#include "base/durable_file.h"
#include "base/random.h"
#include "data/sentencepiece_scan.h"
#include "data/tokenizer_training.h"
#include "data/utf8.h"
#include "tests/data/sample_text.h"
#include "tests/data/tokenizer_fixtures.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr char kMultilingual[] =
    "The quick brown fox, 12345 times.\r\n\tIndented   and   spaced.\n\n"
    "Größe, ça va? ¿Qué tal? Não. עברית ונקודות שָׁלוֹם. العربية هنا. 日本語のテキスト。 Ελληνικά.\n"
    "emoji \xf0\x9f\x98\x80\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80 symbol \xe2\x96\x81 and "
    "\xe2\x96\x85, <s> </s> <unk> <0x0A>  ";

const Tokenizer& TestTokenizer() {
  static const Tokenizer tokenizer = *Tokenizer::FromBytes(TrainedModel(600), "test.model");
  return tokenizer;
}

// Characters of all lengths, among them controls, noncharacters and U+2581.
std::string RandomText(uint64_t seed, int characters) {
  const RandomKey key(seed, RandomPurpose::kTest);
  std::string text;
  for (int i = 0; i < characters; ++i) {
    const auto words = key.Words(static_cast<uint64_t>(i));
    const uint32_t limits[] = {0x80, 0x800, 0x10000, 0x110000};
    uint32_t c = words[1] % limits[words[0] % 4];
    if (c >= 0xd800 && c < 0xe000) c = 0x2581;
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else if (c < 0x800) {
      text += {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
    } else if (c < 0x10000) {
      text += {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3f)),
               static_cast<char>(0x80 | (c & 0x3f))};
    } else {
      text += {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3f)),
               static_cast<char>(0x80 | (c >> 6 & 0x3f)), static_cast<char>(0x80 | (c & 0x3f))};
    }
  }
  return text;
}

void ExpectExact(const std::string& text) {
  const Tokenizer& tokenizer = TestTokenizer();
  ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> ids, tokenizer.Encode(text));
  EXPECT_EQ(*tokenizer.Decode(ids), text);
  const std::vector<int32_t> lengths = tokenizer.ByteLengths();
  size_t bytes = 0;
  for (int32_t id : ids) {
    EXPECT_NE(id, tokenizer.bos_id());
    EXPECT_NE(id, tokenizer.eos_id());
    EXPECT_NE(id, tokenizer.unk_id());
    bytes += static_cast<size_t>(lengths[static_cast<size_t>(id)]);
  }
  EXPECT_EQ(bytes, text.size());
}

TEST(TokenizerTest, DecodingAndByteLengthsAreExact) {
  ExpectExact("");
  ExpectExact(kMultilingual);
  ExpectExact(std::string("\0a\0", 3));
  ExpectExact(SampleText(5, 400));
  for (uint64_t seed = 1; seed <= 20; ++seed) ExpectExact(RandomText(seed, 500));
}

TEST(TokenizerTest, LongTextsEncodeAsTheirLinesDo) {
  const Tokenizer& tokenizer = TestTokenizer();
  std::string text;
  std::vector<int32_t> by_line;
  for (uint64_t line = 0; text.size() < 300'000; ++line) {
    const std::string one = SampleText(line, 30) + (line % 3 == 0 ? "\n" : "\n\n  ");
    text += one;
  }
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find('\n', begin), text.size() - 1) + 1;
    ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> ids,
                         tokenizer.Encode(text.substr(begin, end - begin)));
    by_line.insert(by_line.end(), ids.begin(), ids.end());
    begin = end;
  }
  EXPECT_EQ(*tokenizer.Encode(text), by_line);
  ExpectExact(text);
}

TEST(TokenizerTest, CacheChangesNothing) {
  const Tokenizer& tokenizer = TestTokenizer();
  WordCache cache;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const std::string text = seed % 3 == 0   ? RandomText(seed, 300)
                             : seed % 3 == 1 ? SampleText(seed, 300)
                                             : std::string(seed, ' ') + kMultilingual;
    EXPECT_EQ(*tokenizer.Encode(text, &cache), *tokenizer.Encode(text));
  }
  EXPECT_GT(cache.num_words(), 100u);
}

TEST(TokenizerTest, SpecialIdsAreThoseOfTraining) {
  const Tokenizer& tokenizer = TestTokenizer();
  EXPECT_EQ(tokenizer.vocabulary_size(), 600);
  EXPECT_EQ(tokenizer.unk_id(), 0);
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.pad_id(), -1);
  EXPECT_FALSE(tokenizer.has_dummy_prefix());
  EXPECT_TRUE(tokenizer.is_lossless());
  EXPECT_EQ(tokenizer.ByteLengths()[1], 0);
  EXPECT_EQ(tokenizer.ByteLengths()[2], 0);
  EXPECT_EQ(tokenizer.ByteLengths()[3], 1);
}

TEST(TokenizerTest, TrainingTwiceGivesTheSameBytes) {
  EXPECT_EQ(TrainedModel(400), TrainedModel(400));
}

TEST(TokenizerTest, CompressesWhatItWasTrainedOn) {
  const std::string text = SampleText(1, 2000);
  ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> ids, TestTokenizer().Encode(text));
  EXPECT_LT(ids.size(), text.size() / 2);
}

TEST(TokenizerTest, TextTooSmallForTheVocabularyIsRefused) {
  bool given = false;
  const auto next = [&given](std::string* text) {
    *text = "ab ab ab";
    return !std::exchange(given, true);
  };
  EXPECT_THAT(TrainTokenizer({.vocabulary_size = 5000}, next),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at most, asked for 5000")));
  EXPECT_THAT(TrainTokenizer({.vocabulary_size = 100}, next),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("vocabulary size 100 is not from 260")));
}

TEST(TokenizerTest, InvalidUtf8IsRefusedWithItsOffset) {
  EXPECT_THAT(TestTokenizer().Encode("abc\xff"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("invalid UTF-8 at byte 3")));
  const int32_t outside[] = {600};
  EXPECT_THAT(TestTokenizer().Decode(outside),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("id 600")));
}

TEST(TokenizerTest, ForeignBytesAreRefused) {
  TemporaryFolder folder;
  EXPECT_THAT(Tokenizer::Load(folder.File("no.model")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no.model")));
  EXPECT_THAT(Tokenizer::FromBytes("plain text", "a.model"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("a.model: not a SentencePiece model")));
  EXPECT_THAT(Tokenizer::FromBytes("", "a.model"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no pieces")));
  std::string cut = TrainedModel(600);
  cut.resize(cut.size() / 2);
  EXPECT_THAT(Tokenizer::FromBytes(cut, "a.model"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a.model")));
  // Field 1 (pieces) of 3,005 bytes whose field 1 (piece) has 3,002, more than the library should
  // see.
  const std::string piece = std::string("\x0a\xba\x17", 3) + std::string(3002, 'x');
  const std::string model = std::string("\x0a\xbd\x17", 3) + piece;
  EXPECT_THAT(
      Tokenizer::FromBytes(model, "a.model"),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a.model: piece 0 has 3002 bytes")));
  // One short piece: valid, but no byte pieces.
  EXPECT_THAT(Tokenizer::FromBytes(std::string("\x0a\x03\x0a\x01x", 5), "a.model"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no byte pieces")));
}

Tokenizer JsonFixture(const std::string& kind, const std::string& config = "") {
  absl::StatusOr<Tokenizer> tokenizer =
      Tokenizer::FromBytes(ReadFixture(kind + ".json"), "folder/tokenizer.json", config);
  EXPECT_OK(tokenizer);
  return *std::move(tokenizer);
}

TEST(TokenizerTest, ATokenizerJsonIsReadAsWell) {
  const Tokenizer tokenizer = JsonFixture("llama2");
  EXPECT_STREQ(tokenizer.file_name(), "tokenizer.json");
  EXPECT_STREQ(TestTokenizer().file_name(), "tokenizer.model");
  EXPECT_EQ(tokenizer.vocabulary_size(), 1500);
  EXPECT_EQ(tokenizer.bos_id(), 1);  // of the template
  EXPECT_EQ(tokenizer.eos_id(), 2);  // by its name
  const std::string text = "The rain had stopped; <s> 雨\n";
  ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> ids, tokenizer.Encode(text));
  EXPECT_THAT(ids, ::testing::Not(::testing::Contains(1)));
  EXPECT_EQ(*tokenizer.Decode(ids), text);
  EXPECT_TRUE(tokenizer.has_dummy_prefix());
  EXPECT_EQ(tokenizer.PrefixBytes(text), 1);
  int64_t bytes = 0;
  for (const int32_t id : ids) bytes += tokenizer.ByteLengths()[static_cast<size_t>(id)];
  EXPECT_EQ(bytes - 1, static_cast<int64_t>(text.size()));
  ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> prompt, tokenizer.EncodePrompt("a<s>"));
  EXPECT_EQ(prompt.front(), 1);
  EXPECT_EQ(prompt.back(), 1);
  const int32_t outside[] = {1500};
  EXPECT_THAT(tokenizer.Decode(outside),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("1500")));
  TokenStreamDecoder decoder(tokenizer);
  std::string streamed;
  for (const int32_t id : ids) streamed += *decoder.Add(id);
  EXPECT_EQ(streamed + decoder.Finish(), text);
}

TEST(TokenizerTest, TheConfigBesideATokenizerJsonSaysWhatEndsADocument) {
  const Tokenizer both = JsonFixture("jamba");
  EXPECT_EQ(both.bos_id(), 1);
  EXPECT_EQ(both.eos_id(), 2);
  const Tokenizer other =
      JsonFixture("jamba", R"({"bos_token":"<|bom|>","eos_token":{"content":"<|eom|>"},"x":{}})");
  EXPECT_EQ(other.bos_id(), 4);
  EXPECT_EQ(other.eos_id(), 5);
  EXPECT_THAT(
      Tokenizer::FromBytes(ReadFixture("jamba.json"), "folder/tokenizer.json",
                           R"({"eos_token":"<none>"})"),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("folder/tokenizer_config.json: eos_token: \"<none>\" is no token")));
  const Tokenizer llama3 = JsonFixture("llama3", R"({"eos_token":null})");
  EXPECT_EQ(llama3.BytesOf(llama3.bos_id()), "");
  EXPECT_OK(llama3.CheckDocumentTokens());
  ASSERT_OK_AND_ASSIGN(
      const Tokenizer bare,
      Tokenizer::FromBytes(R"({"model":{"vocab":{"a":0},"merges":[]}})", "t/tokenizer.json"));
  EXPECT_EQ(bare.bos_id(), -1);
  EXPECT_THAT(bare.CheckDocumentTokens(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("t/tokenizer.json: does not say which token begins a document; "
                                 "put a tokenizer_config.json with bos_token")));
}

TEST(TokenizerTest, OfAFoldersFilesTheOneWithTheDigestIsTaken) {
  const std::string model = TrainedModel(600), json = ReadFixture("gpt2.json");
  const std::map<std::string, std::string> files = {{"tokenizer.model", model},
                                                    {"tokenizer.json", json}};
  EXPECT_STREQ(Tokenizer::FromFiles(files, "f", "")->file_name(), "tokenizer.json");
  EXPECT_STREQ(Tokenizer::FromFiles(files, "f", TestTokenizer().digest())->file_name(),
               "tokenizer.model");
  EXPECT_THAT(Tokenizer::FromFiles({}, "f", ""),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("f: has no tokenizer")));
}

TEST(TokenStreamDecoderTest, GivesWholeCharactersAndTheSameText) {
  const Tokenizer& tokenizer = TestTokenizer();
  for (const std::string& text : {std::string(kMultilingual), RandomText(3, 300)}) {
    TokenStreamDecoder decoder(tokenizer);
    std::string streamed;
    ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> ids, tokenizer.Encode(text));
    for (int32_t id : ids) {
      ASSERT_OK_AND_ASSIGN(const std::string part, decoder.Add(id));
      EXPECT_EQ(FirstInvalidUtf8(part), -1);
      streamed += part;
    }
    EXPECT_EQ(decoder.Finish(), "");
    EXPECT_EQ(streamed, text);
  }
}

TEST(TokenStreamDecoderTest, IllFormedBytesBecomeTheReplacementCharacter) {
  const Tokenizer& tokenizer = TestTokenizer();
  const auto byte = [](int value) { return 3 + value; };
  TokenStreamDecoder decoder(tokenizer);
  EXPECT_EQ(*decoder.Add(byte(0xc3)), "");
  EXPECT_EQ(*decoder.Add(byte('a')),
            "\xef\xbf\xbd"
            "a");
  EXPECT_EQ(*decoder.Add(byte(0xe2)), "");
  EXPECT_EQ(decoder.Finish(), "\xef\xbf\xbd");
}

TEST(Utf8Test, FindsEveryKindOfInvalidByte) {
  EXPECT_EQ(FirstInvalidUtf8("gr\xc3\xbc\xc3\x9f"), -1);
  EXPECT_EQ(FirstInvalidUtf8("ab\xc0\xaf"), 2);                          // overlong
  EXPECT_EQ(FirstInvalidUtf8("\xed\xa0\x80"), 0);                        // surrogate
  EXPECT_EQ(FirstInvalidUtf8("a\xf4\x90\x80\x80"), 1);                   // above U+10FFFF
  EXPECT_EQ(FirstInvalidUtf8(std::string(100, 'a') + "\xe2\x82"), 100);  // cut short
  EXPECT_EQ(FirstInvalidUtf8("a\x80"), 1);                               // continuation alone
}

}  // namespace
}  // namespace plait
