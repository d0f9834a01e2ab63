#include "data/unicode_classes.h"

#include <unicode/uchar.h>

namespace plait {
namespace {

constexpr uint8_t kLetter = UnicodeClasses::kLetter;
constexpr uint8_t kNumber = UnicodeClasses::kNumber;
constexpr uint8_t kWord = UnicodeClasses::kWord;
constexpr uint8_t kNumeric = UnicodeClasses::kNumeric;

struct LaterRange {
  char32_t first, last;
  uint8_t classes;
};

// Assigned after Unicode 15.0.
constexpr LaterRange kLaterRanges[] = {
    {0x897, 0x897, kWord},
    {0x1c89, 0x1c8a, kLetter | kWord},
    {0xa7cb, 0xa7cd, kLetter | kWord},
    {0xa7da, 0xa7dc, kLetter | kWord},
    {0x105c0, 0x105f3, kLetter | kWord},
    {0x10d40, 0x10d49, kNumber | kWord | kNumeric},
    {0x10d4a, 0x10d65, kLetter | kWord},
    {0x10d69, 0x10d6d, kWord},
    {0x10d6f, 0x10d85, kLetter | kWord},
    {0x10ec2, 0x10ec4, kLetter | kWord},
    {0x10efc, 0x10efc, kWord},
    {0x11380, 0x11389, kLetter | kWord},
    {0x1138b, 0x1138b, kLetter | kWord},
    {0x1138e, 0x1138e, kLetter | kWord},
    {0x11390, 0x113b5, kLetter | kWord},
    {0x113b7, 0x113b7, kLetter | kWord},
    {0x113b8, 0x113c0, kWord},
    {0x113c2, 0x113c2, kWord},
    {0x113c5, 0x113c5, kWord},
    {0x113c7, 0x113ca, kWord},
    {0x113cc, 0x113d0, kWord},
    {0x113d1, 0x113d1, kLetter | kWord},
    {0x113d2, 0x113d2, kWord},
    {0x113d3, 0x113d3, kLetter | kWord},
    {0x113e1, 0x113e2, kWord},
    {0x116d0, 0x116e3, kNumber | kWord | kNumeric},
    {0x11bc0, 0x11be0, kLetter | kWord},
    {0x11bf0, 0x11bf9, kNumber | kWord | kNumeric},
    {0x11de0, 0x11de9, kNumeric},
    {0x11f5a, 0x11f5a, kWord},
    {0x13460, 0x143fa, kLetter | kWord},
    {0x16100, 0x1611d, kLetter | kWord},
    {0x1611e, 0x1612f, kWord},
    {0x16130, 0x16139, kNumber | kWord | kNumeric},
    {0x16d40, 0x16d6c, kLetter | kWord},
    {0x16d70, 0x16d79, kNumber | kWord | kNumeric},
    {0x16ff4, 0x16ff6, kNumeric},
    {0x18cff, 0x18cff, kLetter | kWord},
    {0x1ccf0, 0x1ccf9, kNumber | kWord | kNumeric},
    {0x1e5d0, 0x1e5ed, kLetter | kWord},
    {0x1e5ee, 0x1e5ef, kWord},
    {0x1e5f0, 0x1e5f0, kLetter | kWord},
    {0x1e5f1, 0x1e5fa, kNumber | kWord | kNumeric},
    {0x2ebf0, 0x2ee5d, kLetter | kWord},
};

uint8_t ClassesOfCategory(UCharCategory category) {
  const uint32_t mask = U_MASK(category);
  uint8_t classes = 0;
  if (mask & U_GC_L_MASK) classes |= kLetter | kWord;
  if (mask & U_GC_N_MASK) classes |= kNumber | kNumeric;
  if (mask & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_NL_MASK | U_GC_PC_MASK)) classes |= kWord;
  return classes;
}

UBool AddRange(const void* context, UChar32 start, UChar32 limit, UCharCategory category) {
  uint8_t* const table = const_cast<uint8_t*>(static_cast<const uint8_t*>(context));
  const uint8_t classes = ClassesOfCategory(category);
  // Symbols are the one other category with alphabetic characters, such as circled letters.
  const bool some_alphabetic = category == U_OTHER_SYMBOL;
  for (UChar32 c = start; c < limit; ++c) {
    table[c] = classes;
    if (some_alphabetic && u_hasBinaryProperty(c, UCHAR_ALPHABETIC)) table[c] |= kWord;
  }
  return true;
}

}  // namespace

UnicodeClasses::UnicodeClasses() : table_(0x110000) {
  u_enumCharTypes(AddRange, table_.data());
  for (UChar32 c = 0; c <= 0x3000; ++c) {
    if (u_hasBinaryProperty(c, UCHAR_WHITE_SPACE)) table_[static_cast<size_t>(c)] |= kSpace;
  }
  for (const char32_t joiner : {0x200c, 0x200d}) table_[joiner] |= kWord;
  for (const LaterRange& range : kLaterRanges) {
    for (char32_t c = range.first; c <= range.last; ++c) table_[c] |= range.classes;
  }
}

const UnicodeClasses& UnicodeClasses::Get() {
  static const UnicodeClasses* const classes = new UnicodeClasses();
  return *classes;
}

}  // namespace plait
