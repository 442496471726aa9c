/* Tests of parsing decimal numbers: only digits are accepted, up to a given maximum. */
#include "base/base.h"
#include "check.h"

static void check_read(const char *text, uint64_t most, uint64_t want, const char *rest)
{
    uint64_t number = 0;
    CHECK_TEXT(un_number_read(text, most, &number), rest);
    CHECK(number == want);
}

static void check_refused(const char *text, uint64_t most)
{
    uint64_t number;
    CHECK(un_number_read(text, most, &number) == NULL);
}

static void reading_ends_at_the_first_other_character(void)
{
    check_read("0", UINT64_MAX, 0, "");
    check_read("007:8", 100, 7, ":8");
    check_read("12 ", 100, 12, " ");
}

static void a_number_begins_with_a_digit(void)
{
    static const char *const texts[] = {"", "-1", "+1", " 1", "x", "/", ":"};
    for (size_t i = 0; i < COUNT(texts); i++)
        check_refused(texts[i], UINT64_MAX);
}

static void the_maximum_is_accepted_and_one_more_is_rejected(void)
{
    check_read("4294967295", UINT32_MAX, UINT32_MAX, "");
    check_refused("4294967296", UINT32_MAX);
    check_refused("42949672950", UINT32_MAX);
    check_read("18446744073709551615", UINT64_MAX, UINT64_MAX, "");
    check_refused("18446744073709551616", UINT64_MAX);
    check_refused("99999999999999999999999", UINT64_MAX);
    check_read("5", 5, 5, "");
    check_refused("6", 5);
    check_read("0", 0, 0, "");
    check_refused("1", 0);
}

static void written_numbers_are_read_back(void)
{
    static const uint64_t numbers[] = {0, 9, 10, 4294967295, UINT64_MAX};
    for (size_t i = 0; i < COUNT(numbers); i++) {
        char text[21];
        CHECK(*un_number_write(text, numbers[i]) == '\0');
        check_read(text, UINT64_MAX, numbers[i], "");
    }
}

int main(void)
{
    reading_ends_at_the_first_other_character();
    a_number_begins_with_a_digit();
    the_maximum_is_accepted_and_one_more_is_rejected();
    written_numbers_are_read_back();
}
