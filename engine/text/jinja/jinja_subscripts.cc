// Attributes, subscripts, slices and iteration of template values (declared in jinja_operators.h).
#include <algorithm>
#include <optional>
#include <utility>

#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_operators.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

// Where each character of `text` begins, and the end.
std::vector<size_t> CharacterOffsets(const std::string& text) {
  std::vector<size_t> offsets;
  for (size_t position = 0; position < text.size(); NextCodePoint(text, position)) {
    offsets.push_back(position);
  }
  offsets.push_back(text.size());
  return offsets;
}

absl::Status ReadBound(const JinjaValue& value, int64_t& bound, bool& is_open) {
  is_open = value.is_undefined() || value.is_none();
  if (is_open) return absl::OkStatus();
  const int64_t* integer = value.integer();
  if (integer == nullptr) return JinjaTypeError(value, "cannot bound a slice");
  bound = *integer;
  return absl::OkStatus();
}

// The indices of a slice. Source: CPython, Objects/sliceobject.c, PySlice_AdjustIndices.
absl::StatusOr<std::vector<size_t>> SliceIndices(size_t size,
                                                 const JinjaSliceBounds& bounds,
                                                 JinjaBudget& budget) {
  const auto length = static_cast<int64_t>(size);
  int64_t step = 1;
  int64_t start = 0;
  int64_t stop = 0;
  bool open_step = false;
  bool open_start = false;
  bool open_stop = false;
  RETURN_IF_ERROR(ReadBound(bounds.step, step, open_step));
  RETURN_IF_ERROR(ReadBound(bounds.start, start, open_start));
  RETURN_IF_ERROR(ReadBound(bounds.stop, stop, open_stop));
  if (step == 0) return JinjaError("slice step is zero");
  step = std::clamp<int64_t>(step, -length - 1, length + 1);
  const int64_t low = step < 0 ? -1 : 0;
  const int64_t high = step < 0 ? length - 1 : length;
  const auto adjust = [&](int64_t bound) {
    return std::clamp(bound < 0 ? bound + length : bound, low, high);
  };
  start = open_start ? (step < 0 ? high : low) : adjust(start);
  stop = open_stop ? (step < 0 ? low : high) : adjust(stop);
  std::vector<size_t> indices;
  for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step) {
    indices.push_back(static_cast<size_t>(i));
  }
  RETURN_IF_ERROR(budget.Bytes(indices.size() * sizeof(size_t)));
  return indices;
}

std::optional<size_t> ListIndex(int64_t index, size_t size) {
  const int64_t absolute = index < 0 ? index + static_cast<int64_t>(size) : index;
  if (absolute < 0 || absolute >= static_cast<int64_t>(size)) return std::nullopt;
  return static_cast<size_t>(absolute);
}

JinjaValue NoItem() { return JinjaValue::Undefined("item"); }

}  // namespace

JinjaResult JinjaAttribute(const JinjaValue& value, const std::string& name, JinjaBudget& budget) {
  if (value.is_undefined()) return JinjaError("attribute of an undefined value");
  if (const JinjaDict* dict = value.dict()) {
    RETURN_IF_ERROR(budget.Step(static_cast<int64_t>(dict->entries.size() / 16)));
    const JinjaValue* found = dict->Find(name);
    return found != nullptr ? *found : JinjaValue::Undefined(name);
  }
  if (JinjaNamespace* space = value.name_space()) {
    const JinjaValue* found = space->Find(name);
    return found != nullptr ? *found : JinjaValue::Undefined(name);
  }
  if (const JinjaLoop* loop = value.loop()) return loop->Attribute(name);
  return JinjaValue::Undefined(name);
}

JinjaResult JinjaItem(const JinjaValue& value, const JinjaValue& key, JinjaBudget& budget) {
  if (key.text() != nullptr) return JinjaAttribute(value, key.text()->text(), budget);
  if (value.is_undefined()) return JinjaError("item of an undefined value");
  const int64_t* index = key.integer();
  if (index == nullptr) return NoItem();
  if (const JinjaList* list = value.list()) {
    const std::optional<size_t> at = ListIndex(*index, list->items.size());
    return at.has_value() ? list->items[*at] : NoItem();
  }
  if (const TemplateText* text = value.text()) {
    RETURN_IF_ERROR(budget.Step(1 + static_cast<int64_t>(text->size() / 256)));
    const std::vector<size_t> offsets = CharacterOffsets(text->text());
    const std::optional<size_t> at = ListIndex(*index, offsets.size() - 1);
    if (!at.has_value()) return NoItem();
    return JinjaValue::Text(text->Substring(offsets[*at], offsets[*at + 1]));
  }
  return NoItem();
}

JinjaResult JinjaSlice(const JinjaValue& value,
                       const JinjaSliceBounds& bounds,
                       JinjaBudget& budget) {
  if (const JinjaList* list = value.list()) {
    ASSIGN_OR_RETURN(const std::vector<size_t> indices,
                     SliceIndices(list->items.size(), bounds, budget));
    JinjaItems items;
    for (const size_t index : indices) items.push_back(list->items[index]);
    return JinjaValue::List(std::move(items), budget);
  }
  if (const TemplateText* text = value.text()) {
    RETURN_IF_ERROR(budget.Bytes(text->size()));
    const std::vector<size_t> offsets = CharacterOffsets(text->text());
    ASSIGN_OR_RETURN(const std::vector<size_t> indices,
                     SliceIndices(offsets.size() - 1, bounds, budget));
    TemplateText slice;
    const bool is_whole_run =
        !indices.empty() && indices.back() - indices.front() + 1 == indices.size();
    if (is_whole_run) {
      slice = text->Substring(offsets[indices.front()], offsets[indices.back() + 1]);
    } else {
      for (const size_t index : indices) {
        slice.Append(text->Substring(offsets[index], offsets[index + 1]));
      }
    }
    return JinjaValue::Text(std::move(slice));
  }
  return JinjaTypeError(value, "cannot be sliced");
}

absl::StatusOr<JinjaItems> JinjaIterate(const JinjaValue& value, JinjaBudget& budget) {
  JinjaItems items;
  if (value.is_undefined()) return items;
  if (const JinjaList* list = value.list()) {
    RETURN_IF_ERROR(budget.Bytes(list->items.size() * sizeof(JinjaValue)));
    return list->items;
  }
  if (const JinjaDict* dict = value.dict()) {
    for (const auto& [key, item] : dict->entries) {
      RETURN_IF_ERROR(budget.Bytes(key.size() + sizeof(JinjaValue)));
      items.push_back(JinjaValue::Text(key));
    }
    return items;
  }
  if (const TemplateText* text = value.text()) {
    const std::vector<size_t> offsets = CharacterOffsets(text->text());
    RETURN_IF_ERROR(budget.Step(static_cast<int64_t>(offsets.size())));
    for (size_t i = 0; i + 1 < offsets.size(); ++i) {
      items.push_back(JinjaValue::Text(text->Substring(offsets[i], offsets[i + 1])));
    }
    return items;
  }
  return JinjaTypeError(value, "cannot be iterated");
}

}  // namespace sluice
