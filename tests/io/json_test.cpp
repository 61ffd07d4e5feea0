#include <clocale>
#include <limits>
#include <moraine/io/json.hpp>
#include <nlohmann/json.hpp>

#include "scratch.hpp"

using namespace moraine;
using scratch::contains;
using scratch::message_of;

static bool refused(std::string_view text) {
  return !message_of([&] { parse_json(text); }).empty();
}

TEST_CASE("json: values, order and kinds") {
  const Json j = parse_json(
      R"( {"z": [1, -2, 3.5, 18446744073709551615, -9223372036854775808, 1e2, true, null],
           "a": {"s": "\u00e9\ud83d\ude00\n\"\\/", "e": ""}} )");
  REQUIRE(j.is_object());
  CHECK(j.as_object()[0].key == "z");
  const auto& z = j.at("z").as_array();
  CHECK(z[0].as_natural() == 1);
  CHECK(z[1].as_int() == -2);
  CHECK(z[2].as_double() == 3.5);
  CHECK(z[3].as_natural() == std::numeric_limits<std::uint64_t>::max());
  CHECK(z[4].as_int() == std::numeric_limits<std::int64_t>::min());
  CHECK(z[5].kind() == Json::Kind::real);
  CHECK(z[5].as_double() == 100.0);
  CHECK(z[6].as_bool());
  CHECK(z[7].is_null());
  CHECK(j.at("a").at("s").as_string() == "\xc3\xa9\xf0\x9f\x98\x80\n\"\\/");
  CHECK(j.find("b") == nullptr);
  CHECK(contains(message_of([&] { j.at("b"); }), "no key \"b\""));
  CHECK(contains(message_of([&] { z[3].as_int("n"); }), "\"n\" is a number; expected a whole"));
  CHECK(contains(message_of([&] { z[5].as_natural("n"); }), "a real number"));
  CHECK(contains(message_of([&] { z[1].as_natural("n"); }), "a negative number"));
}

TEST_CASE("json: what the grammar does not allow is refused") {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[",
                           "]",
                           "[1,]",
                           "{\"a\":1,}",
                           "{,}",
                           "[1 2]",
                           "{\"a\" 1}",
                           "{a:1}",
                           "'a'",
                           "[01]",
                           "[-]",
                           "[+1]",
                           "[.5]",
                           "[1.]",
                           "[1e]",
                           "[1e+]",
                           "[--1]",
                           "[0x10]",
                           "[NaN]",
                           "[Infinity]",
                           "[-Infinity]",
                           "nul",
                           "True",
                           "/*c*/1",
                           "//c\n1",
                           "1 2",
                           "{} x",
                           "\xef\xbb\xbf{}",
                           "\"a",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\u123g\"",
                           "\"\t\"",
                           "\"\\ud800\"",
                           "\"\\ud800x\"",
                           "\"\\ud800\\u0041\"",
                           "\"\\udc00\"",
                           "[1e400]",
                           "[-1e400]",
                           "\"\xff\"",
                           "\"\xc0\xaf\"",
                           "\"\xed\xa0\x80\"",
                           "\"\xf4\x90\x80\x80\"",
                           "\"\xe2\x82\"",
                           "{\"a\":1,\"a\":1}",
                           "[{\"a\":1,\"\\u0061\":2}]"})
    CHECK_MESSAGE(refused(text), text);
  CHECK(refused(std::string_view("{}\0", 3)));
  CHECK(refused(std::string_view("{}\0{", 4)));
  CHECK(refused(std::string_view("\"\0\"", 3)));
  CHECK(contains(message_of([] { parse_json("{\"a\":1,\"a\":1}", "json: \"x.json\""); }),
                 "json: \"x.json\": key \"a\" stands twice"));
  CHECK(parse_json("\"\\u0000\"").as_string().size() == 1);
  CHECK(parse_json("[1e-400]").as_array()[0].as_double() == 0.0);
  CHECK(parse_json("[1e-99999999999999999999]").as_array()[0].as_double() == 0.0);
  CHECK(parse_json("[0." + std::string(400, '0') + "1]").as_array()[0].as_double() == 0.0);
  CHECK(refused("[1" + std::string(400, '0') + "]"));
  CHECK(refused("[1" + std::string(400, '0') + "e-5]"));
  CHECK(refused("[1e99999999999999999999]"));
  CHECK(std::signbit(parse_json("[-0]").as_array()[0].as_double()));
  CHECK(parse_json("[18446744073709551616]").as_array()[0].kind() == Json::Kind::real);
}

TEST_CASE("json: depth, length and count have limits") {
  CHECK_FALSE(refused(std::string(64, '[') + std::string(64, ']')));
  CHECK(contains(message_of([] { parse_json(std::string(65, '[') + std::string(65, ']')); }),
                 "more than 64 levels"));
  CHECK(refused(std::string(1000000, '[')));
  CHECK(contains(message_of([] { parse_json("[1,2,3]", "json", {.max_values = 3}); }), "too many"));
  CHECK_NOTHROW(parse_json("[1,2,3]", "json", {.max_values = 4}));
  CHECK(contains(message_of([] { parse_json("[1,2,3]", "json", {.max_bytes = 6}); }), "7 of at"));
}

TEST_CASE("json: what is written reads back the same, here and by another reader") {
  Json j;
  j.set("big", 18446744073709551615ul);
  j.set("neg", -5);
  j.set("tenth", 0.1);
  j.set("whole", 3.0);
  j.set("tiny", 5e-324);
  j.set("text", std::string("\0\x1f\x7f\"\\\n\xc3\xa9", 8));
  j.set("list", Json::array({1, 2, Json::object(), Json::array(), true, Json()}));
  j.set("neg", -6);  // replaces
  for (int indent : {-1, 0, 2}) {
    const std::string text = json_text(j, {.indent = indent});
    CHECK(parse_json(text) == j);
    CHECK(parse_json(text).at("whole").kind() == Json::Kind::real);
    CHECK(nlohmann::json::parse(text)["tenth"] == 0.1);
    CHECK(nlohmann::json::parse(text)["text"] == j.at("text").as_string());
  }
  CHECK(json_text(Json::array({1, 2.5, "a/b"}), {.indent = -1}) == "[1,2.5,\"a/b\"]");
  CHECK(json_text(Json::array({1, 2.5})) == "[1, 2.5]");
  CHECK_THROWS_AS(json_text(Json(std::numeric_limits<double>::quiet_NaN())), Error);
  CHECK_THROWS_AS(json_text(Json("\xff")), Error);
  scratch::Dir dir;
  write_json(dir / "a.json", j);
  CHECK(read_json(dir / "a.json") == j);
  CHECK(contains(message_of([&] { read_json(dir / "b.json"); }), "cannot open"));
}

TEST_CASE("json: every number of a list agrees with another reader, in any locale") {
  const char* names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "C"};
  for (const char* name : names) {
    if (!std::setlocale(LC_ALL, name)) continue;
    for (const char* text : {"0.1", "1e22", "1e23", "123456789.125", "2.2250738585072011e-308",
                             "9007199254740993", "-1.5", "0.30000000000000004", "1E+2"}) {
      CHECK(parse_json(text).as_double() == nlohmann::json::parse(text).get<double>());
      CHECK(parse_json(json_text(parse_json(text))) == parse_json(text));
    }
  }
  std::setlocale(LC_ALL, "C");
}
