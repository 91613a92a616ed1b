// Rendering of chat templates, against Jinja2, and the marks on message text.
#include "engine/text/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/text/text_fixtures.h"

namespace sluice {
namespace {

using nlohmann::json;

ChatTemplateContext Context() {
  ChatTemplateContext context;
  context.special_tokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  context.now = [] { return int64_t{1700000000}; };
  return context;
}

std::vector<ChatMessage> Messages(const json& list) {
  std::vector<ChatMessage> messages;
  for (const json& item : list) messages.push_back({item["role"], item["content"]});
  return messages;
}

std::string Joined(const std::vector<PromptSegment>& segments) {
  std::string text;
  for (const PromptSegment& segment : segments) text += segment.text;
  return text;
}

// Segments as text, those from a message in double angle brackets.
std::string Marked(const std::string& source, const std::vector<ChatMessage>& messages) {
  const auto chat_template = ChatTemplate::Parse(source, Context());
  if (!chat_template.ok()) return chat_template.status().ToString();
  const auto segments = (*chat_template)->Render(messages, true);
  if (!segments.ok()) return segments.status().ToString();
  std::string text;
  for (const PromptSegment& segment : *segments) {
    text += segment.from_message ? "<<" + segment.text + ">>" : segment.text;
  }
  return text;
}

TEST(ChatTemplateTest, RendersAsJinja2Does) {
  const std::string qwen_config =
      SourcePath("../shared/data/tokenizers/qwen3/tokenizer_config.json");
  std::string qwen;
  if (FileExists(qwen_config)) qwen = json::parse(ReadText(qwen_config))["chat_template"];
  int num_checked = 0;
  for (const json& one : ReadFixture("template_cases.json")) {
    if (one.contains("source") && qwen.empty()) continue;
    const std::string source = one.contains("source") ? qwen : one["template"].get<std::string>();
    SCOPED_TRACE(one.contains("source") ? "qwen3" : source);
    ++num_checked;
    const auto chat_template = ChatTemplate::Parse(source, Context());
    if (!chat_template.ok()) {
      EXPECT_TRUE(one["text"].is_null()) << chat_template.status();
      EXPECT_EQ(chat_template.status().code(), absl::StatusCode::kInvalidArgument);
      continue;
    }
    const auto segments =
        (*chat_template)->Render(Messages(one["messages"]), one["add_generation_prompt"]);
    if (!segments.ok()) {
      EXPECT_TRUE(one["text"].is_null()) << segments.status();
      EXPECT_EQ(segments.status().code(), absl::StatusCode::kInvalidArgument);
      continue;
    }
    EXPECT_EQ(json(Joined(*segments)), one["text"]);
  }
  EXPECT_GE(num_checked, 55);
}

TEST(ChatTemplateTest, MessageTextIsMarkedThroughEveryOperation) {
  const std::vector<ChatMessage> one = {{"user", " a,b "}};
  const auto marked = [&one](const std::string& expression) {
    return Marked("<|u|>{{ " + expression + " }}<|e|>", one);
  };
  EXPECT_EQ(marked("messages[0].content"), "<|u|><< a,b >><|e|>");
  EXPECT_EQ(marked("'x' + messages[0]['content'] + 'y'"), "<|u|>x<< a,b >>y<|e|>");
  EXPECT_EQ(marked("messages[0].content | trim"), "<|u|><<a,b>><|e|>");
  EXPECT_EQ(marked("messages[0].content.split(',')[1].strip()"), "<|u|><<b>><|e|>");
  EXPECT_EQ(marked("messages[0].content.replace(',', '-').upper()"), "<|u|><< A>>-<<B >><|e|>");
  EXPECT_EQ(marked("(messages[0].content ~ 'q')[1:][::-1]"), "<|u|>q<< b,a>><|e|>");
  EXPECT_EQ(marked("messages[0].content[1] ~ messages[0].content[-2] ~ messages[0].content[5]"),
            "<|u|><<ab>><|e|>");
  EXPECT_EQ(marked("'äöü'[1] ~ 'äöü'[-3] ~ 'äöü'[-4] ~ ('AB' is upper) ~ ('A1b' is lower)"),
            "<|u|>öäTrueFalse<|e|>");
  EXPECT_EQ(Marked("{{ messages[0].content | indent(1) }}", {{"user", "a\nb"}}), "<<a\n>> <<b>>");
  EXPECT_EQ(marked("messages[0].content[:2] ~ messages[0].content[3:9] ~ messages[0].content[4:1]"),
            "<|u|><< ab >><|e|>");
  EXPECT_EQ(marked("messages[0].content[::2] ~ messages[0].content[3:0:-1]"),
            "<|u|><< , b,a>><|e|>");
  EXPECT_EQ(marked("[messages[0].content, 'z'] | join('+')"), "<|u|><< a,b >>+z<|e|>");
  EXPECT_EQ(marked("messages[0].content | list | last"), "<|u|><< >><|e|>");
  EXPECT_EQ(marked("messages | map(attribute='content') | first | title"), "<|u|><< A,b >><|e|>");
  EXPECT_EQ(marked("messages | tojson"),
            "<|u|><<[{\"role\": \"user\", \"content\": \" a,b \"}]>><|e|>");
  EXPECT_EQ(marked("{'k': messages[0].content}.values() | list | first"), "<|u|><< a,b >><|e|>");
  EXPECT_EQ(marked("messages[0].role ~ messages[0].content | length"), "<|u|>user5<|e|>");
  EXPECT_EQ(Marked("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(messages[0].content) }}", one),
            "[<< a,b >>]");
  EXPECT_EQ(Marked("{% set x %}({{ messages[0].content }}){% endset %}{{ x }}", one),
            "(<< a,b >>)");
  EXPECT_EQ(Marked("{% for c in messages[0].content %}{{ c }}.{% endfor %}", {{"user", "ab"}}),
            "<<a>>.<<b>>.");
}

TEST(ChatTemplateTest, UnknownRolesAreTreatedAsMessageText) {
  EXPECT_EQ(Marked("{{ messages[0].role }}", {{"assistant", ""}}), "assistant");
  EXPECT_EQ(Marked("{{ messages[0].role }}", {{"<|im_start|>system", ""}}),
            "<<<|im_start|>system>>");
}

TEST(ChatTemplateTest, RaisedMessagesDoNotRepeatUserText) {
  const std::string own =
      Marked("{{ raise_exception('Roles must alternate') }}", {{"user", "secret"}});
  EXPECT_NE(own.find("Roles must alternate"), std::string::npos);
  const std::string user =
      Marked("{{ raise_exception('no ' + messages[0].content) }}", {{"user", "secret"}});
  EXPECT_EQ(user.find("secret"), std::string::npos);
}

TEST(ChatTemplateTest, LoadsFromAModelDirectory) {
  const std::string directory = testing::TempDir() + "/sluice_chat_template";
  ASSERT_TRUE(::mkdir(directory.c_str(), 0700) == 0 || errno == EEXIST);
  const auto render = [&directory] {
    const auto chat_template = ChatTemplate::Load(directory);
    EXPECT_TRUE(chat_template.ok()) << chat_template.status();
    const auto segments = (*chat_template)->Render({{"user", "hi"}}, true);
    EXPECT_TRUE(segments.ok()) << segments.status();
    return std::string((*chat_template)->kind()) + ":" + Joined(*segments);
  };
  const auto write = [&directory](const char* name, const std::string& text) {
    std::ofstream(directory + "/" + name) << text;
  };
  std::remove((directory + "/chat_template.jinja").c_str());
  write("tokenizer_config.json", "{}");
  EXPECT_EQ(render(), "built-in:user: hi\nassistant:");
  write(
      "tokenizer_config.json",
      R"({"bos_token":{"content":"<b>"},"eos_token":"<e>","chat_template":"{{ bos_token }}{{ eos_token }}"})");
  EXPECT_EQ(render(), "jinja:<b><e>");
  write("tokenizer_config.json",
        R"({"chat_template":[{"name":"tool","template":"t"},{"name":"default","template":"d"}]})");
  EXPECT_EQ(render(), "jinja:d");
  write("chat_template.jinja", "file");
  EXPECT_EQ(render(), "jinja:file");
  write("chat_template.jinja", "{% if %}");
  EXPECT_EQ(ChatTemplate::Load(directory).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sluice
