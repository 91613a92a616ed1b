// The parsed form of a chat template. Operator chains are flat lists, so that the depth of the tree
// is the nesting the author wrote, which the parser caps.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/jinja_value.h"

namespace sluice {

struct JinjaExpression;
using JinjaExpressionPtr = std::unique_ptr<JinjaExpression>;

// Of one call, and parameters of one macro: what a call costs stays small.
constexpr size_t kMaxJinjaArguments = 64;

struct JinjaArgumentList {
  std::vector<JinjaExpressionPtr> positional;
  std::vector<std::pair<std::string, JinjaExpressionPtr>> named;
};

enum class JinjaOperator {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kConcatenate,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn,
};

// What follows a value: .name, [item], [a:b:c], (arguments), | filter, is test.
struct JinjaSuffix {
  enum class Kind { kAttribute, kItem, kSlice, kCall, kFilter, kTest };
  Kind kind = Kind::kAttribute;
  std::string name;             // attribute, filter, test
  JinjaExpressionPtr parts[3];  // item: [0]; slice: start, stop, step (each may be null)
  JinjaArgumentList arguments;  // call, filter, test
  bool negated = false;         // is not
};

struct JinjaExpression {
  enum class Kind {
    kLiteral,      // literal
    kName,         // name
    kList,         // children
    kDict,         // children: key, value, key, value, ...
    kChain,        // children[0] operators[0] children[1] ..., from left to right
    kCompare,      // the same, but a < b < c means a < b and b < c
    kAnd,          // children
    kOr,           // children
    kNot,          // children[0]
    kNegate,       // children[0]
    kPlus,         // children[0]
    kConditional,  // children: value, condition, alternative (may be null)
    kSuffixes,     // children[0], then suffixes
  };
  Kind kind = Kind::kLiteral;
  int line = 1;
  JinjaValue literal;
  std::string name;
  std::vector<JinjaExpressionPtr> children;
  std::vector<JinjaOperator> operators;
  std::vector<JinjaSuffix> suffixes;
};

struct JinjaStatement;
using JinjaBody = std::vector<std::unique_ptr<JinjaStatement>>;

// What `set` and `for` assign to: a name, an attribute of a namespace, or several names.
struct JinjaTarget {
  std::vector<std::string> names;
  std::string attribute;  // of names[0]; empty: plain names
};

struct JinjaMacro {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<JinjaExpressionPtr> defaults;  // by parameter; null: none
  JinjaBody body;
};

struct JinjaStatement {
  enum class Kind { kText, kOutput, kIf, kFor, kSet, kSetBlock, kMacro, kBreak, kContinue, kScope };
  struct Branch {
    JinjaExpressionPtr condition;  // null: else
    JinjaBody body;
  };
  Kind kind = Kind::kText;
  int line = 1;
  std::string text;
  JinjaExpressionPtr expression;  // output, the iterable of for, the value of set
  JinjaExpressionPtr filter;      // of for, may be null
  JinjaTarget target;             // for, set, set block
  std::vector<Branch> branches;   // if
  JinjaBody body;                 // for, set block, scope
  JinjaBody otherwise;            // for ... else
  JinjaMacro macro;
};

}  // namespace sluice
