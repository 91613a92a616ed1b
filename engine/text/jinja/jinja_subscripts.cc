// Attributes, subscripts, slices and iteration of template values (declared in jinja_operators.h).
#include <algorithm>
#include <optional>
#include <utility>

#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_operators.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

absl::Status ReadBound(const JinjaValue& value, int64_t& bound, bool& is_open) {
  is_open = value.is_undefined() || value.is_none();
  if (is_open) return absl::OkStatus();
  const int64_t* integer = value.integer();
  if (integer == nullptr) return JinjaTypeError(value, "cannot bound a slice");
  bound = *integer;
  return absl::OkStatus();
}

// The indices start, start + step, ... of a slice, `count` of them.
struct Slice {
  int64_t start = 0;
  int64_t step = 1;
  size_t count = 0;

  size_t operator[](size_t i) const {
    return static_cast<size_t>(start + static_cast<int64_t>(i) * step);
  }
};

// Source: CPython, Objects/sliceobject.c, PySlice_AdjustIndices.
absl::StatusOr<Slice> ResolveSlice(size_t size, const JinjaSliceBounds& bounds) {
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
  const int64_t distance = step > 0 ? stop - start : start - stop;
  const int64_t stride = step > 0 ? step : -step;
  const size_t count = distance > 0 ? static_cast<size_t>((distance + stride - 1) / stride) : 0;
  return Slice{start, step, count};
}

JinjaResult SliceText(const TemplateText& text,
                      const JinjaSliceBounds& bounds,
                      JinjaBudget& budget) {
  const std::string& bytes = text.text();
  RETURN_IF_ERROR(budget.Bytes(text.stored_bytes()));
  RETURN_IF_ERROR(budget.Characters(bytes.size()));
  const size_t characters = CountCodePoints(bytes);
  ASSIGN_OR_RETURN(const Slice slice, ResolveSlice(characters, bounds));
  if (slice.count == 0) return JinjaValue::Text(TemplateText());
  if (slice.step == 1) {
    size_t begin = 0;
    for (size_t i = 0; i < slice[0]; ++i) NextCodePoint(bytes, begin);
    size_t end = begin;
    for (size_t i = 0; i < slice.count; ++i) NextCodePoint(bytes, end);
    return JinjaValue::Text(text.Substring(begin, end));
  }
  RETURN_IF_ERROR(budget.Bytes((characters + 1) * sizeof(size_t)));
  std::vector<size_t> offsets;  // where each character begins, and the end
  offsets.reserve(characters + 1);
  for (size_t at = 0; at < bytes.size(); NextCodePoint(bytes, at)) offsets.push_back(at);
  offsets.push_back(bytes.size());
  TemplateText picked;
  for (size_t i = 0; i < slice.count; ++i) {
    picked.Append(text.Substring(offsets[slice[i]], offsets[slice[i] + 1]));
  }
  return JinjaValue::Text(std::move(picked));
}

std::optional<size_t> ListIndex(int64_t index, size_t size) {
  const int64_t absolute = index < 0 ? index + static_cast<int64_t>(size) : index;
  if (absolute < 0 || absolute >= static_cast<int64_t>(size)) return std::nullopt;
  return static_cast<size_t>(absolute);
}

JinjaValue NoItem() { return JinjaValue::Undefined(); }

// The character `index` of `text`, counted from its end where negative.
JinjaResult CharacterAt(const TemplateText& text, int64_t index, JinjaBudget& budget) {
  const std::string& bytes = text.text();
  // A character has at least a byte, and walking to it costs what lies on the way.
  const auto skipped = static_cast<uint64_t>(index < 0 ? -1 - index : index);
  if (skipped >= bytes.size()) return NoItem();
  RETURN_IF_ERROR(budget.Characters(static_cast<size_t>(skipped)));
  size_t begin = 0;
  size_t end = 0;
  if (index < 0) {
    begin = end = bytes.size();
    for (uint64_t i = 0; i <= skipped; ++i) {
      if (begin == 0) return NoItem();
      end = begin;
      PreviousCodePoint(bytes, begin);
    }
  } else {
    for (uint64_t i = 0; i <= skipped; ++i) {
      if (end == bytes.size()) return NoItem();
      begin = end;
      NextCodePoint(bytes, end);
    }
  }
  return JinjaValue::Text(text.Substring(begin, end));
}

}  // namespace

JinjaResult JinjaAttribute(const JinjaValue& value, const std::string& name, JinjaBudget& budget) {
  if (value.is_undefined()) return JinjaError("attribute of an undefined value");
  if (const JinjaDict* dict = value.dict()) {
    ASSIGN_OR_RETURN(const JinjaValue* found, dict->Find(name, budget));
    return found != nullptr ? *found : JinjaValue::Undefined();
  }
  if (JinjaNamespace* space = value.name_space()) {
    RETURN_IF_ERROR(ChargeJinjaSearch(space->entries.size(), name.size(), budget));
    const JinjaValue* found = space->Find(name);
    return found != nullptr ? *found : JinjaValue::Undefined();
  }
  if (const JinjaLoop* loop = value.loop()) return loop->Attribute(name);
  return JinjaValue::Undefined();
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
    return CharacterAt(*text, *index, budget);
  }
  return NoItem();
}

JinjaResult JinjaSlice(const JinjaValue& value,
                       const JinjaSliceBounds& bounds,
                       JinjaBudget& budget) {
  if (const TemplateText* text = value.text()) return SliceText(*text, bounds, budget);
  const JinjaList* list = value.list();
  if (list == nullptr) return JinjaTypeError(value, "cannot be sliced");
  ASSIGN_OR_RETURN(const Slice slice, ResolveSlice(list->items.size(), bounds));
  RETURN_IF_ERROR(budget.Bytes(slice.count * sizeof(JinjaValue)));
  JinjaItems items;
  items.reserve(slice.count);
  for (size_t i = 0; i < slice.count; ++i) items.push_back(list->items[slice[i]]);
  return JinjaValue::List(std::move(items), budget);
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
      RETURN_IF_ERROR(ChargeJinjaText(key, budget));
      items.push_back(JinjaValue::Text(key));
    }
    return items;
  }
  if (const TemplateText* text = value.text()) {
    for (size_t begin = 0, end = 0; begin < text->size(); begin = end) {
      NextCodePoint(text->text(), end);
      TemplateText character = text->Substring(begin, end);
      RETURN_IF_ERROR(ChargeJinjaText(character, budget));
      items.push_back(JinjaValue::Text(std::move(character)));
    }
    return items;
  }
  return JinjaTypeError(value, "cannot be iterated");
}

}  // namespace sluice
