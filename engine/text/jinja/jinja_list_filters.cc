// Filters on lists and dicts, and `default`.
#include <algorithm>
#include <utility>

#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_calls.h"
#include "engine/text/jinja/jinja_operators.h"
#include "engine/text/jinja/jinja_text_operations.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

JinjaResult Default(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const bool for_false, call.BoolArgument(1, "boolean", false));
  const bool replace = call.input.is_undefined() || (for_false && !call.input.Truthy());
  if (!replace) return call.input;
  const JinjaValue* given = call.arguments.Get(0, "default_value");
  return given == nullptr ? JinjaValue::Text(std::string()) : *given;
}

JinjaResult Length(const JinjaCall& call) {
  if (const TemplateText* text = call.input.text()) {
    RETURN_IF_ERROR(call.budget.Characters(text->size()));
    return JinjaValue::Size(CountCodePoints(text->text()));
  }
  if (const JinjaList* list = call.input.list()) return JinjaValue::Size(list->items.size());
  if (const JinjaDict* dict = call.input.dict()) return JinjaValue::Size(dict->entries.size());
  if (call.input.is_undefined()) return JinjaValue::Int(0);
  return JinjaTypeError(call.input, "has no length");
}

JinjaResult First(const JinjaCall& call) {
  if (call.input.text() != nullptr) return JinjaItem(call.input, JinjaValue::Int(0), call.budget);
  ASSIGN_OR_RETURN(const JinjaItems items, JinjaIterate(call.input, call.budget));
  return items.empty() ? JinjaValue::Undefined() : items.front();
}

JinjaResult Last(const JinjaCall& call) {
  if (call.input.text() != nullptr) return JinjaItem(call.input, JinjaValue::Int(-1), call.budget);
  ASSIGN_OR_RETURN(const JinjaItems items, JinjaIterate(call.input, call.budget));
  return items.empty() ? JinjaValue::Undefined() : items.back();
}

JinjaResult List(const JinjaCall& call) {
  ASSIGN_OR_RETURN(JinjaItems items, JinjaIterate(call.input, call.budget));
  return JinjaValue::List(std::move(items), call.budget);
}

JinjaResult Reverse(const JinjaCall& call) {
  if (call.input.text() != nullptr) {
    JinjaSliceBounds bounds;
    bounds.step = JinjaValue::Int(-1);
    return JinjaSlice(call.input, bounds, call.budget);
  }
  ASSIGN_OR_RETURN(JinjaItems items, JinjaIterate(call.input, call.budget));
  std::reverse(items.begin(), items.end());
  return JinjaValue::List(std::move(items), call.budget);
}

JinjaResult Items(const JinjaCall& call) {
  if (call.input.is_undefined()) return JinjaValue::List({}, call.budget);
  if (call.input.dict() == nullptr) return JinjaTypeError(call.input, "has no items");
  return CallJinjaMethod("items", call);
}

// The arguments after the first `count`, for filters that call a filter or test by name.
JinjaArguments DropArguments(const JinjaArguments& arguments, size_t count) {
  JinjaArguments rest;
  for (size_t i = count; i < arguments.positional.size(); ++i) {
    rest.positional.push_back(arguments.positional[i]);
  }
  rest.named = arguments.named;
  return rest;
}

JinjaResult Map(const JinjaCall& call) {
  ASSIGN_OR_RETURN(JinjaItems items, JinjaIterate(call.input, call.budget));
  const bool by_attribute = call.arguments.positional.empty();
  ASSIGN_OR_RETURN(const TemplateText name, call.TextArgument(0, "attribute", ""));
  if (name.empty()) return JinjaError("map needs a filter or an attribute");
  RETURN_IF_ERROR(call.budget.Step(static_cast<int64_t>(call.arguments.positional.size())));
  const JinjaArguments rest = DropArguments(call.arguments, 1);
  const JinjaValue* fallback = call.arguments.Get(1, "default");
  for (JinjaValue& item : items) {
    RETURN_IF_ERROR(call.budget.Step());
    if (!by_attribute) {
      ASSIGN_OR_RETURN(item, ApplyJinjaFilter(name.text(), {item, rest, call.budget}));
      continue;
    }
    ASSIGN_OR_RETURN(item, JinjaAttributePath(item, name.text(), call.budget));
    if (item.is_undefined() && fallback != nullptr) item = *fallback;
  }
  return JinjaValue::List(std::move(items), call.budget);
}

struct Selection {
  bool keep = true;           // what the test must say
  bool of_attribute = false;  // the first argument names an attribute
};

JinjaResult SelectBy(const JinjaCall& call, Selection selection) {
  ASSIGN_OR_RETURN(const JinjaItems items, JinjaIterate(call.input, call.budget));
  const size_t test_index = selection.of_attribute ? 1 : 0;
  ASSIGN_OR_RETURN(const TemplateText attribute, call.TextArgument(0, "", ""));
  const bool has_test = call.arguments.positional.size() > test_index;
  ASSIGN_OR_RETURN(const TemplateText test, call.TextArgument(test_index, "", ""));
  RETURN_IF_ERROR(call.budget.Step(static_cast<int64_t>(call.arguments.positional.size())));
  const JinjaArguments rest = DropArguments(call.arguments, test_index + 1);
  JinjaItems kept;
  for (const JinjaValue& item : items) {
    RETURN_IF_ERROR(call.budget.Step());
    JinjaValue tested = item;
    if (selection.of_attribute) {
      ASSIGN_OR_RETURN(tested, JinjaAttributePath(item, attribute.text(), call.budget));
    }
    bool passes = tested.Truthy();
    if (has_test) {
      ASSIGN_OR_RETURN(passes, ApplyJinjaTest(test.text(), {tested, rest, call.budget}));
    }
    if (passes == selection.keep) kept.push_back(item);
  }
  return JinjaValue::List(std::move(kept), call.budget);
}

JinjaResult Select(const JinjaCall& call) { return SelectBy(call, {}); }
JinjaResult Reject(const JinjaCall& call) { return SelectBy(call, {.keep = false}); }
JinjaResult SelectAttribute(const JinjaCall& call) {
  return SelectBy(call, {.of_attribute = true});
}
JinjaResult RejectAttribute(const JinjaCall& call) {
  return SelectBy(call, {.keep = false, .of_attribute = true});
}

struct KeyOptions {
  bool case_sensitive = false;
  std::string attribute;
};

// What sort and unique compare: an attribute or the item, in lower case unless told otherwise.
absl::StatusOr<JinjaItems> SortKeys(const JinjaItems& items,
                                    const KeyOptions& options,
                                    JinjaBudget& budget) {
  RETURN_IF_ERROR(budget.Bytes(items.size() * sizeof(JinjaValue)));
  JinjaItems keys;
  for (const JinjaValue& item : items) {
    JinjaValue key = item;
    if (!options.attribute.empty()) {
      ASSIGN_OR_RETURN(key, JinjaAttributePath(item, options.attribute, budget));
    }
    if (key.text() != nullptr && !options.case_sensitive) {
      RETURN_IF_ERROR(ChargeJinjaText(*key.text(), budget));
      ASSIGN_OR_RETURN(TemplateText lower,
                       ChangeCase(*key.text(), JinjaLetterCase::kLower, budget));
      key = JinjaValue::Text(std::move(lower));
    }
    keys.push_back(std::move(key));
  }
  return keys;
}

absl::StatusOr<std::vector<size_t>> SortedOrder(const JinjaItems& keys,
                                                bool reverse,
                                                JinjaBudget& budget) {
  // A merge sort of our own: comparisons can fail, which std::sort does not survive.
  RETURN_IF_ERROR(budget.Bytes(2 * keys.size() * sizeof(size_t)));
  std::vector<size_t> order(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::vector<size_t> merged(order.size());
  for (size_t width = 1; width < order.size(); width *= 2) {
    for (size_t begin = 0; begin < order.size(); begin += 2 * width) {
      size_t left = begin;
      const size_t middle = std::min(begin + width, order.size());
      size_t right = middle;
      const size_t end = std::min(begin + 2 * width, order.size());
      for (size_t out = begin; out < end; ++out) {
        bool take_right = left == middle;
        if (!take_right && right < end) {
          const JinjaValue& a = keys[order[reverse ? left : right]];
          const JinjaValue& b = keys[order[reverse ? right : left]];
          ASSIGN_OR_RETURN(take_right, JinjaLess(a, b, budget));
        }
        merged[out] = take_right ? order[right++] : order[left++];
      }
    }
    order.swap(merged);
  }
  return order;
}

JinjaResult Sort(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const JinjaItems items, JinjaIterate(call.input, call.budget));
  ASSIGN_OR_RETURN(const bool reverse, call.BoolArgument(0, "reverse", false));
  KeyOptions options;
  ASSIGN_OR_RETURN(options.case_sensitive, call.BoolArgument(1, "case_sensitive", false));
  ASSIGN_OR_RETURN(const TemplateText attribute, call.TextArgument(2, "attribute", ""));
  options.attribute = attribute.text();
  ASSIGN_OR_RETURN(const JinjaItems keys, SortKeys(items, options, call.budget));
  ASSIGN_OR_RETURN(const std::vector<size_t> order, SortedOrder(keys, reverse, call.budget));
  JinjaItems sorted;
  for (const size_t index : order) sorted.push_back(items[index]);
  return JinjaValue::List(std::move(sorted), call.budget);
}

JinjaResult DictSort(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const JinjaValue items, Items(call));
  JinjaArguments by_key;
  by_key.named.emplace_back("attribute", JinjaValue::Text(std::string("0")));
  return Sort({items, by_key, call.budget});
}

JinjaResult Unique(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const JinjaItems items, JinjaIterate(call.input, call.budget));
  KeyOptions options;
  ASSIGN_OR_RETURN(options.case_sensitive, call.BoolArgument(0, "case_sensitive", false));
  ASSIGN_OR_RETURN(const TemplateText attribute, call.TextArgument(1, "attribute", ""));
  options.attribute = attribute.text();
  ASSIGN_OR_RETURN(const JinjaItems keys, SortKeys(items, options, call.budget));
  JinjaItems seen;
  JinjaItems kept;
  for (size_t i = 0; i < items.size(); ++i) {
    bool is_new = true;
    for (const JinjaValue& key : seen) {
      ASSIGN_OR_RETURN(const bool equal, JinjaEquals(key, keys[i], call.budget));
      if (equal) is_new = false;
    }
    if (!is_new) continue;
    seen.push_back(keys[i]);
    kept.push_back(items[i]);
  }
  return JinjaValue::List(std::move(kept), call.budget);
}

}  // namespace

JinjaFilter FindListFilter(std::string_view name) {
  constexpr JinjaFilterEntry kFilters[] = {
      {"default", &Default},
      {"d", &Default},
      {"length", &Length},
      {"count", &Length},
      {"first", &First},
      {"last", &Last},
      {"list", &List},
      {"reverse", &Reverse},
      {"items", &Items},
      {"map", &Map},
      {"select", &Select},
      {"reject", &Reject},
      {"selectattr", &SelectAttribute},
      {"rejectattr", &RejectAttribute},
      {"sort", &Sort},
      {"dictsort", &DictSort},
      {"unique", &Unique},
  };
  for (const JinjaFilterEntry& entry : kFilters) {
    if (name == entry.name) return entry.filter;
  }
  return nullptr;
}

}  // namespace sluice
