/* Tests of reading the routes of a host, which is imitated by a network namespace, and of making
 * addresses unreachable. */
#include "forked.h"
#include "inside.h"
#include "needs.h"
#include "programs/network/network.h"

#include <arpa/inet.h>
#include <sys/socket.h>

/* Commands that set up the network of a host, with routes over several gateways, and over gateways
 * of another address family. The kernel adds the route to a new IPv6 address asynchronously
 * (addrconf_dad_work()), so wait for that route. */
static const char machine[] =
    "ip link set lo up; ip link add lan type veth peer name port; ip link set port up;"
    "ip link set lan up; ip address add 10.79.0.2/24 dev lan;"
    "ip -6 address add fd79::2/64 dev lan nodad;"
    "until ip -6 route show table local | grep -q fd79::2; do sleep 0.01; done;"
    "ip route add default nexthop via 10.79.0.1 dev lan nexthop via 10.79.0.3 dev lan;"
    "ip -6 route add default nexthop via fd79::1 dev lan nexthop via fd79::3 dev lan;"
    "ip route add 10.80.0.0/16 via inet6 fd79::4 dev lan; ip route add 10.81.0.0/16 dev lan";

static bool has_prefix(const struct prefixes *found, int family, const char *address, int length)
{
    struct prefix wanted = {.family = family, .length = length};
    CHECK_INT(inet_pton(family, address, wanted.address), 1);
    for (size_t i = 0; i < found->count; i++)
        if (!memcmp(&found->prefix[i], &wanted, sizeof wanted))
            return true;
    return false;
}

static void addresses_and_gateways_are_found(struct prefixes *found)
{
    static const char *const four[] = {"10.79.0.1", "10.79.0.2", "10.79.0.3", "10.79.0.255"};
    static const char *const six[] = {"fd79::1", "fd79::2", "fd79::3", "fd79::4", "::1"};
    struct un_error err;
    CHECK_OK(routes_of_machine(found, &err), &err);
    for (size_t i = 0; i < COUNT(four); i++)
        CHECK(has_prefix(found, AF_INET, four[i], 32));
    for (size_t i = 0; i < COUNT(six); i++)
        CHECK(has_prefix(found, AF_INET6, six[i], 128));
    CHECK(!has_prefix(found, AF_INET, "10.81.0.0", 16));
}

/* Returns 0 if the kernel has a route to an address, otherwise the errno of connect(2). */
static int connect_to(const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK_INT(inet_pton(AF_INET, address, &to.sin_addr), 1);
    int errnum = connect(fd, (const struct sockaddr *)&to, sizeof to) ? errno : 0;
    close(fd);
    return errnum;
}

static int run_in_network(void *arg)
{
    struct prefixes found = {.count = 0}, wrong = {.prefix = {{AF_INET, 99, {10}}}, .count = 1};
    struct un_error err;
    (void)arg;
    enter_inside();
    CHECK_INT(unshare(CLONE_NEWNET), 0);
    CHECK_INT(system(machine), 0);
    addresses_and_gateways_are_found(&found);
    CHECK_INT(connect_to("10.79.0.3"), 0);
    CHECK_OK(routes_deny(&found, &err), &err);
    CHECK_INT(connect_to("10.79.0.3"), EHOSTUNREACH);
    CHECK_INT(routes_deny(&wrong, &err), -1);
    CHECK_INT(err.errnum, EINVAL);
    CHECK_HAS(err.detail, "can't add the route to 10.0.0.0/99");
    found.count = PREFIXES_MAX;
    memset(found.prefix, 0, sizeof found.prefix);
    CHECK_INT(routes_of_machine(&found, &err), -1);
    CHECK_INT(err.errnum, E2BIG);
    return 0;
}

int main(void)
{
    need_user_namespaces();
    return forked(run_in_network, NULL);
}
