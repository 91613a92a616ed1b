// Hostile templates: each ends with a typed error or a small result, never a hang, a crash or a
// large allocation.
#include <gtest/gtest.h>

#include "engine/text/chat_template.h"
#include "tests/text/text_fixtures.h"

namespace sluice {
namespace {

std::string Repeat(const std::string& unit, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += unit;
  return text;
}

absl::Status RenderStatus(const std::string& source) {
  const auto chat_template = ChatTemplate::Parse(source);
  if (!chat_template.ok()) return chat_template.status();
  return (*chat_template)->Render({{"user", "hello"}}, true).status();
}

TEST(ChatTemplateLimitsTest, HostileTemplatesAreRefused) {
  const std::vector<std::string> hostile = {
      "{{ range(10**9) }}",
      "{{ range(-9223372036854775807, 9223372036854775807) }}",
      "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
      "{{ " + Repeat("(", 5000) + "1" + Repeat(")", 5000) + " }}",
      "{{ " + Repeat("[", 5000) + "1" + Repeat("]", 5000) + " }}",
      "{{ " + Repeat("{'a':", 5000) + "1" + Repeat("}", 5000) + " }}",
      "{{ " + Repeat("a.b(", 5000) + Repeat(")", 5000) + " }}",
      "{{ " + Repeat("-", 60000) + "1 }}",
      "{{ 1" + Repeat(" if 1", 30000) + " }}",
      "{{ 1" + Repeat(" if 1 else 1", 15000) + " }}",
      Repeat("{% if 1 %}", 20000),
      "{{ 'a' | map(" + Repeat("'map',", 30000) + "'upper') | list }}",
      "{{ '" + Repeat("a", 200000) + "' * 100000 }}",
      "{{ ('a' ~ messages[0].content[0]) * 4000000 }}",  // 8 MB, whose marks would be 64
      // Pieces, copies, separators and arguments that nobody asks the size of until they are made.
      "{{ ('a ' * 150000).split() | length }}",
      "{{ ('a' * 300000) | list | length }}",
      "{{ ('a' * 4000000) | trim('b' * 4000000 ~ 'a') }}",
      "{{ (['A' * 4000000] * 1000) | select('upper') | list }}",
      "{{ range(100000) | map(attribute='x' * 4000000) | list }}",
      "{{ range(100000) | map('replace', 'a' * 4000000, '') | list }}",
      "{{ range(100000) | list | tojson(separators=('a' * 1000000, ':')) }}",
      "{{ ([[[[[[1]]]]]] * 100000) | tojson(indent=64) }}",
      "{{ ('\\n' * 10000) | indent(('a' ~ messages[0].content[0]) * 100) }}",
      "{% set x = 'a' * 4000000 %}{{ range(100000) | map('int') | sum ~ x[3999999] ~ x[3999999] ~ "
      "x[3999999] ~ x[3999999] ~ x[3999999] }}",
      "{% set k = 'x' * 1000000 %}{% set d = {k: 1} %}{% set x = dict(" + Repeat("d,", 60) + ") %}",
      "{% set k = 'x' * 3000000 %}{% set d = {k: 1} %}{% for i in range(100000) %}{% if k in d %}"
      "{% endif %}{% endfor %}",
      "{% for i in range(100000) %}{% if 1" + Repeat(" and 1", 1000) + " %}{% endif %}{% endfor %}",
      "{% macro f(" + Repeat("p,", 100) + "q) %}{% endmacro %}",
      "{{ 1 is defined(" + Repeat("1,", 100) + ") }}",
      "{{ " + Repeat("n", 300) + " }}",
      "{% for i in range(20000) %}{% set x = strftime_now('%s%s%s%s') %}{% endfor %}",
      "{% set t = 'a' * 1000000 %}{% for i in range(200) %}{% if 'b' in t %}{% endif %}{% endfor "
      "%}",
      // Marks would be lost.
      "{{ [1, 2] | tojson(separators=(messages[0].content, ':')) }}",
      "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(1000) %}{% set ns.x = ns.x ~ ns.x "
      "%}{% endfor %}",
      "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor "
      "%}",
      "{% set ns = namespace(l=range(99)|list) %}{% for i in range(1000) %}{% set ns.l = ns.l + "
      "ns.l %}{% endfor %}",
      "{% set ns = namespace() %}{% set ns.x = ns %}",
      "{% set ns = namespace() %}{{ [ns] }}",
      "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
      "{% for i in range(100000) %}{% for j in range(100000) %}a{% endfor %}{% endfor %}",
      "{{ range(100000) | unique | list }}",
      "{{ 'x'.replace('x', '" + Repeat("y", 100000) + "').replace('y', '" + Repeat("z", 100000) +
          "') }}",
      "{{ 9 ** 9 ** 9 }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ (-9223372036854775807 - 1) // -1 }}",
      "{{ (-9223372036854775807 - 1) | abs }}",
      "{{ 1e300 * 1e300 | int }}",
      "{{ 99999999999999999999 }}",
      "{{ ''.split('') }}",
      "{{ [].x.y }}",
      "{{ messages.append(1) }}",
      "{{ ''.__class__.__mro__ }}",
      "{% import 'os' as os %}",
      "{{ 'unfinished }}",
      "{# unfinished",
      "{% raw %} unfinished",
      "{{ ) }}",
      std::string("{{ '\xFF' }}"),
      Repeat("x", 256 * 1024 + 1),
      Repeat("x", 10 * 1024 * 1024),
  };
  for (const std::string& source : hostile) {
    EXPECT_EQ(RenderStatus(source).code(), absl::StatusCode::kInvalidArgument)
        << source.substr(0, 80);
  }
}

TEST(ChatTemplateLimitsTest, LongButFlatTemplatesAreFine) {
  EXPECT_TRUE(RenderStatus("{{ 1" + Repeat(" + 1", 50000) + " }}").ok());
  EXPECT_TRUE(RenderStatus("{{ 'a'" + Repeat(" ~ 'b'", 300) + " }}").ok());
  EXPECT_TRUE(RenderStatus("{{ 1" + Repeat(" | int", 30000) + " }}").ok());
  EXPECT_TRUE(RenderStatus("{{ " + Repeat("not ", 50000) + "1 }}").ok());
  EXPECT_TRUE(RenderStatus(Repeat("{% if 1 %}", 40) + Repeat("{% endif %}", 40)).ok());
  EXPECT_TRUE(RenderStatus("{{ " + Repeat("(", 40) + "1" + Repeat(")", 40) + " }}").ok());
}

TEST(ChatTemplateLimitsTest, OutputIsBoundedByTheInput) {
  // 4 x input + 64 KiB: a template that repeats the message 100 times passes for a short one only.
  const auto chat_template =
      ChatTemplate::Parse("{% for i in range(100) %}{{ messages[0].content }}{% endfor %}");
  ASSERT_TRUE(chat_template.ok());
  EXPECT_TRUE((*chat_template)->Render({{"user", std::string(500, 'a')}}, true).ok());
  EXPECT_FALSE((*chat_template)->Render({{"user", std::string(100'000, 'a')}}, true).ok());
}

TEST(ChatTemplateLimitsTest, LargeConversationsRender) {
  const auto chat_template = ChatTemplate::Parse(
      "{% for m in messages %}{{ '<' + m.role + '>' + m.content.strip() + '\\n' }}{% endfor %}");
  ASSERT_TRUE(chat_template.ok());
  EXPECT_TRUE((*chat_template)->Render({{"user", std::string(8 << 20, 'a')}}, true).ok());
  const auto edits = ChatTemplate::Parse(
      "{% set c = messages[0].content %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] "
      "%}{% endif %}{{ c[1:][:-1] | trim }}{{ c.count('x') ~ (c | first) ~ (c | last) ~ c[0] }}");
  ASSERT_TRUE(edits.ok());
  const auto edited = (*edits)->Render({{"user", std::string(8 << 20, 'a')}}, true);
  EXPECT_TRUE(edited.ok()) << edited.status();
  const std::vector<ChatMessage> many(10'000, ChatMessage{"user", "hi"});
  EXPECT_TRUE((*chat_template)->Render(many, true).ok());
}

TEST(ChatTemplateLimitsTest, RandomTemplatesNeverCrash) {
  const std::vector<std::string> parts = {"{{ ",
                                          " }}",
                                          "{% ",
                                          " %}",
                                          "{%- ",
                                          " -%}",
                                          "if ",
                                          "else",
                                          "endif",
                                          "for x in ",
                                          "endfor",
                                          "set x = ",
                                          "(",
                                          ")",
                                          "[",
                                          "]",
                                          "{",
                                          "}",
                                          "messages",
                                          ".content",
                                          ".role",
                                          "[0]",
                                          "[::-1]",
                                          " | ",
                                          "trim",
                                          "tojson",
                                          "length",
                                          "join",
                                          "map('upper')",
                                          "'a'",
                                          "1",
                                          "-1",
                                          "2.5",
                                          " + ",
                                          " ~ ",
                                          " * ",
                                          " in ",
                                          " is ",
                                          "defined",
                                          "not ",
                                          "and ",
                                          "or ",
                                          ",",
                                          ":",
                                          "loop.index",
                                          "range(5)",
                                          "namespace(a=1)",
                                          "x",
                                          "text ",
                                          "\n",
                                          "{# ",
                                          " #}",
                                          "macro f(a)",
                                          "endmacro",
                                          "f(1)",
                                          ".split('l')",
                                          ".items()",
                                          " == ",
                                          " < ",
                                          "none",
                                          "true",
                                          "sort",
                                          "list",
                                          "%",
                                          "{"};
  for (uint64_t seed = 1; seed <= 20000; ++seed) {
    TestRandom random(seed);
    std::string source;
    for (size_t i = random.Below(25); i > 0; --i) source += parts[random.Below(parts.size())];
    const absl::Status status = RenderStatus(source);
    EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kInvalidArgument)
        << "seed " << seed;
  }
}

}  // namespace
}  // namespace sluice
