/* Tests of extracting messages from runsc's JSON log. */
#include "check.h"
#include "explain/explain.h"

/* Returns the messages of a JSON log, joined by "|". */
static const char *read_from(const char *json, size_t size)
{
    static char found[4096];
    struct un_messages messages;
    CHECK_INT(un_messages_read(json, size, &messages), 0);
    *found = '\0';
    size_t passed = 0;
    for (size_t i = 0; i < messages.count; i++) {
        strcat(strcat(found, i ? "|" : ""), messages.bytes + passed);
        passed += strlen(messages.bytes + passed) + 1;
    }
    CHECK_INT((long long)passed, (long long)messages.size);
    un_messages_free(&messages);
    return found;
}

static const char *read_all(const char *json)
{
    return read_from(json, strlen(json));
}

static void objects_follow_each_other(void)
{
    CHECK_TEXT(read_all(""), "");
    CHECK_TEXT(read_all("{\"msg\":\"one\",\"level\":\"error\"}{\"msg\":\"two\"}\n{\"msg\":\"3\"}"),
               "one|two|3");
    CHECK_TEXT(read_all("no JSON { } {\"msg\" : \" one \\n\" , \"n\" : [1, {\"msg\": \"x\"}] }"),
               "one");
    CHECK_TEXT(read_all("{\"msg\":5}{\"msg\":null}{\"msg\":\"\"}{\"other\":\"x\"}{\"msg\":\"y\"}"),
               "y");
    CHECK_TEXT(read_all("{\"msg\":\"first\",\"msg\":\"second\"}"), "second");
    CHECK_TEXT(read_all("{\"in\":{\"msg\":\"x\"}}"), "");
}

static void reading_ends_at_the_first_malformed_object(void)
{
    static const char *const broken[] = {
        "{\"msg\":\"x}",     "{\"msg\":\"x\"",        "{\"msg\" \"x\"}",
        "{\"msg\":\"\\q\"}", "{\"msg\":\"\\u12g4\"}", "{\"msg\":\"a\nb\"}",
        "{msg:\"x\"}",       "{\"msg\":\"x\",}",      "{\"a\":[1,2}",
        "{\"a\":}",          "{\"msg\":\"x\"]",       "{\"msg\":\"\\",
        "{\"msg\":\"\\u",    "{\"msg\":\"\\ud800\\",  "{\"a\":[[[[[[[1}",
    };
    for (size_t i = 0; i < COUNT(broken); i++) {
        char json[256];
        snprintf(json, sizeof json, "{\"msg\":\"one\"}%s{\"msg\":\"late\"}", broken[i]);
        CHECK_TEXT(read_all(json), "one");
    }
    CHECK_TEXT(read_from("{\"msg\":\"a\0b\"}", 13), "");
}

static void deep_nesting_ends_the_reading(void)
{
    char json[4096] = "{\"msg\":\"one\"}{\"a\":";
    for (int i = 0; i < 1000; i++)
        strcat(json, "[");
    CHECK_TEXT(read_all(json), "one");
}

static void escapes_are_read(void)
{
    CHECK_TEXT(read_all("{\"msg\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t.\"}"), "\"\\/\b\f\n\r\t.");
    CHECK_TEXT(read_all("{\"msg\":\"\\u0041\\u00e9\\u20AC\\ud83d\\ude00\"}"),
               "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    CHECK_TEXT(read_all("{\"msg\":\"\\u0000\\ud800x\\udc00\\ud800\\u0041\"}"),
               "\xef\xbf\xbd\xef\xbf\xbdx\xef\xbf\xbd\xef\xbf\xbd"
               "A");
    CHECK_TEXT(read_all("{\"msg\":\"a\xff\xc3\"}"), "a\xef\xbf\xbd\xef\xbf\xbd");
}

int main(void)
{
    objects_follow_each_other();
    reading_ends_at_the_first_malformed_object();
    deep_nesting_ends_the_reading();
    escapes_are_read();
}
