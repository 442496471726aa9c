/*
 * Reading and adding routes by rtnetlink(7).
 *
 * pasta opens connections in the host's network namespace, and its options exclude only loopback
 * addresses, so a sandbox could reach all other addresses of the host. Therefore sandboxes are
 * denied all local addresses of the host, including broadcast and anycast addresses (an IPv6 router
 * answers to the first address of each of its networks), and the host's gateways. If the host is a
 * virtual machine or a container, its gateway often is the machine that runs it.
 *
 * filter.c drops the packets to these addresses. The unreachable routes that this file adds only
 * make connect(2) fail immediately.
 */
#include "base/base.h"
#include "programs/network/network.h"

#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define ANSWER_BYTES (1 << 16)
#define DUMPS_MAX 20

/* Addresses that no sandbox may reach: link-local addresses, at which clouds serve the credentials
 * of the machine, and the other addresses that cloud-init's data sources use. */
static const struct {
    const char *address;
    int family, length;
} special[] = {
    {"169.254.0.0", AF_INET, 16},
    {"100.100.100.200", AF_INET, 32},
    {"168.63.129.16", AF_INET, 32},
    {"192.0.0.192", AF_INET, 32},
    {"fd00:ec2::", AF_INET6, 32},
    {"fd20:ce::254", AF_INET6, 128},
    {"fd00:42::42", AF_INET6, 128},
    {"fd00:100::100:200", AF_INET6, 128},
    {"fd00:a9fe:a9fe::1", AF_INET6, 128},
    {"fd00:c1::a9fe:a9fe", AF_INET6, 128},
    {"fe80::", AF_INET6, 10},
    /* The NAT64 prefix for local use (RFC 8215), whose addresses may be translated to any IPv4
     * address. filter.c handles the other NAT64 prefix. */
    {"64:ff9b:1::", AF_INET6, 48},
};

static int open_netlink(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

static size_t size_of(int family)
{
    return family == AF_INET ? 4 : 16;
}

static bool add_prefix(struct prefixes *found, int family, int length, const void *address)
{
    struct prefix prefix = {.family = family, .length = length};
    memcpy(prefix.address, address, size_of(family));
    for (size_t i = 0; i < found->count; i++)
        if (!memcmp(&found->prefix[i], &prefix, sizeof prefix))
            return true;
    if (found->count == PREFIXES_MAX)
        return false;
    found->prefix[found->count++] = prefix;
    return true;
}

/* Adds the gateway in `at`, an attribute of a route or next hop, to `found`. Ignores attributes
 * other than RTA_GATEWAY and RTA_VIA. Returns false if `found` is full. */
static bool add_gateway(const struct rtattr *at, int family, struct prefixes *found)
{
    const void *address = RTA_DATA(at);
    size_t size = RTA_PAYLOAD(at);
    if (at->rta_type == RTA_VIA && size > sizeof(struct rtvia)) {
        const struct rtvia *via = address;
        family = via->rtvia_family;
        address = via->rtvia_addr;
        size -= sizeof *via;
    } else if (at->rta_type != RTA_GATEWAY) {
        return true;
    }
    if ((family != AF_INET && family != AF_INET6) || size < size_of(family))
        return true;
    return add_prefix(found, family, (int)size_of(family) * 8, address);
}

/* Adds the gateways of a multipath route to `found`. Returns false if `found` is full. */
static bool add_next_hops(const struct rtattr *hops, int family, struct prefixes *found)
{
    const struct rtnexthop *hop = RTA_DATA(hops);
    size_t left = RTA_PAYLOAD(hops);
    while (left >= sizeof *hop && hop->rtnh_len >= sizeof *hop && hop->rtnh_len <= left) {
        size_t rest = hop->rtnh_len - sizeof *hop;
        const struct rtattr *at = (const void *)(hop + 1);
        for (; RTA_OK(at, rest); at = RTA_NEXT(at, rest))
            if (!add_gateway(at, family, found))
                return false;
        size_t step = RTA_ALIGN(hop->rtnh_len);
        left -= step < left ? step : left;
        hop = (const void *)((const char *)hop + step);
    }
    return true;
}

static bool is_of_machine(const struct rtmsg *route)
{
    return route->rtm_type == RTN_LOCAL || route->rtm_type == RTN_ANYCAST ||
           route->rtm_type == RTN_BROADCAST;
}

/* Returns whether the kernel omits the gateways of a route. The kernel omits them if the route
 * refers to a nexthop object (ip-nexthop(8)) and net.ipv4.nexthop_compat_mode is 0. */
static bool hides_gateways(const struct nlmsghdr *message)
{
    const struct rtmsg *route = NLMSG_DATA(message);
    size_t left = RTM_PAYLOAD(message);
    bool has_object = false, has_hop = route->rtm_type != RTN_UNICAST;
    for (const struct rtattr *at = RTM_RTA(route); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        has_object = has_object || at->rta_type == RTA_NH_ID;
        has_hop = has_hop || at->rta_type == RTA_OIF || at->rta_type == RTA_GATEWAY ||
                  at->rta_type == RTA_VIA || at->rta_type == RTA_MULTIPATH;
    }
    return has_object && !has_hop;
}

/* Adds the local address or the gateways in a route to `found`. Returns false if `found` is
 * full. */
static bool add_route(const struct nlmsghdr *message, struct prefixes *found)
{
    const struct rtmsg *route = NLMSG_DATA(message);
    int family = route->rtm_family;
    size_t left = RTM_PAYLOAD(message);
    bool is_complete = true;
    for (const struct rtattr *at = RTM_RTA(route); is_complete && RTA_OK(at, left);
         at = RTA_NEXT(at, left)) {
        if (route->rtm_type == RTN_UNICAST)
            is_complete = at->rta_type == RTA_MULTIPATH ? add_next_hops(at, family, found)
                                                        : add_gateway(at, family, found);
        else if (is_of_machine(route) && at->rta_type == RTA_DST &&
                 RTA_PAYLOAD(at) >= size_of(family))
            is_complete = add_prefix(found, family, route->rtm_dst_len, RTA_DATA(at));
    }
    return is_complete;
}

/* Reads the kernel's answers to a request for all routes, and adds the local addresses and gateways
 * of the routes to `found`. Returns 0, or -1 with errno set. EAGAIN means that the routes have
 * changed meanwhile, so that the kernel may have omitted some. */
static int read_routes(int netlink, char *bytes, struct prefixes *found)
{
    bool is_consistent = true;
    for (;;) {
        ssize_t got = recv(netlink, bytes, ANSWER_BYTES, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        size_t left = (size_t)got;
        for (const struct nlmsghdr *message = (void *)bytes; NLMSG_OK(message, left);
             message = NLMSG_NEXT(message, left)) {
            is_consistent = is_consistent && !(message->nlmsg_flags & NLM_F_DUMP_INTR);
            if (message->nlmsg_type == NLMSG_DONE)
                return is_consistent ? 0 : (errno = EAGAIN, -1);
            if (message->nlmsg_type == NLMSG_ERROR) {
                errno = -((const struct nlmsgerr *)NLMSG_DATA(message))->error;
                return -1;
            }
            if (message->nlmsg_type != RTM_NEWROUTE)
                continue;
            if (hides_gateways(message))
                return errno = ENODATA, -1;
            if (!add_route(message, found))
                return errno = E2BIG, -1;
        }
    }
}

static int read_family(int family, char *bytes, struct prefixes *found)
{
    struct {
        struct nlmsghdr head;
        struct rtmsg route;
    } request = {
        .head = {.nlmsg_len = sizeof request,
                 .nlmsg_type = RTM_GETROUTE,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .route = {.rtm_family = (unsigned char)family},
    };
    un_auto_close int netlink = open_netlink();
    if (netlink < 0 || send(netlink, &request, sizeof request, 0) < 0)
        return -1;
    return read_routes(netlink, bytes, found);
}

static int read_consistent_family(int family, char *bytes, struct prefixes *found)
{
    int failed = -1;
    for (int i = 0; i < DUMPS_MAX && failed && (!i || errno == EAGAIN); i++)
        failed = read_family(family, bytes, found);
    return failed;
}

int routes_of_machine(struct prefixes *found, struct un_error *err)
{
    un_auto_free char *bytes = malloc(ANSWER_BYTES);
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
        unsigned char address[16];
        inet_pton(special[i].family, special[i].address, address);
        add_prefix(found, special[i].family, special[i].length, address);
    }
    /* Ignore the errors of a kernel without IPv6, which has no IPv6 routes. */
    if (!bytes || read_consistent_family(AF_INET, bytes, found) ||
        (read_consistent_family(AF_INET6, bytes, found) && errno != EAFNOSUPPORT &&
         errno != EOPNOTSUPP))
        return errno == ENODATA
                   ? un_fail(err, UN_STEP_NETWORK, 0, NULL,
                             "the kernel hides the gateways of nexthop objects; as "
                             "root: sysctl net.ipv4.nexthop_compat_mode=1")
                   : un_fail_errno(err, UN_STEP_NETWORK, "can't read the routes of this machine");
    return 0;
}

/* A request to the kernel to add a route. */
struct new_route {
    struct nlmsghdr head;
    struct rtmsg route;
    char attributes[64];
};

/* Adds an attribute to a request. Copies the header of the attribute by memcpy(3): a compiler that
 * assumes strict aliasing omits a header that is written through a pointer into the array, and the
 * kernel then ignores the attribute. */
static void add_attribute(struct new_route *request, unsigned short type, const void *data,
                          size_t size)
{
    const struct rtattr head = {.rta_type = type, .rta_len = (unsigned short)RTA_LENGTH(size)};
    char *at = (char *)request + NLMSG_ALIGN(request->head.nlmsg_len);
    memcpy(at, &head, sizeof head);
    memcpy(at + RTA_LENGTH(0), data, size);
    request->head.nlmsg_len =
        (uint32_t)(NLMSG_ALIGN(request->head.nlmsg_len) + RTA_ALIGN(RTA_LENGTH(size)));
}

static struct new_route begin_route(const struct prefix *to, unsigned char type)
{
    /* Set the priority of an IPv6 route to the highest, 1, because the kernel replaces 0 by its
     * default of 1024. */
    uint32_t priority = 1;
    struct new_route request = {
        .head = {.nlmsg_len = NLMSG_LENGTH(sizeof request.route),
                 .nlmsg_type = RTM_NEWROUTE,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE},
        .route = {.rtm_family = (unsigned char)to->family,
                  .rtm_dst_len = (unsigned char)to->length,
                  .rtm_table = RT_TABLE_MAIN,
                  .rtm_protocol = RTPROT_STATIC,
                  .rtm_scope = type == RTN_UNICAST ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE,
                  .rtm_type = type},
    };
    add_attribute(&request, RTA_DST, to->address, size_of(to->family));
    if (to->family == AF_INET6)
        add_attribute(&request, RTA_PRIORITY, &priority, sizeof priority);
    return request;
}

/* Sends a request, and reads the kernel's answer. Returns 0, or -1 with errno set. */
static int request_route(int netlink, const struct new_route *request)
{
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        char rest[256];
    } answer;
    if (send(netlink, request, request->head.nlmsg_len, 0) < 0)
        return -1;
    ssize_t got = recv(netlink, &answer, sizeof answer, 0);
    if (got < 0)
        return -1;
    bool is_answer =
        got >= (ssize_t)NLMSG_LENGTH(sizeof(int)) && answer.head.nlmsg_type == NLMSG_ERROR;
    errno = is_answer ? -answer.error.error : EBADMSG;
    return errno ? -1 : 0;
}

static int fail_route(const struct prefix *to, struct un_error *err)
{
    char text[INET6_ADDRSTRLEN] = "", detail[INET6_ADDRSTRLEN + 32];
    int errnum = errno;
    inet_ntop(to->family, to->address, text, sizeof text);
    snprintf(detail, sizeof detail, "can't add the route to %s/%d", text, to->length);
    errno = errnum;
    return un_fail_errno(err, UN_STEP_NETWORK, detail);
}

int routes_deny(const struct prefixes *denied, struct un_error *err)
{
    un_auto_close int netlink = open_netlink();
    if (netlink < 0)
        return un_fail_errno(err, UN_STEP_NETWORK, "can't open a netlink socket");
    for (size_t i = 0; i < denied->count; i++) {
        const struct prefix *to = &denied->prefix[i];
        struct new_route request = begin_route(to, RTN_UNREACHABLE);
        bool is_done = !request_route(netlink, &request);
        /* A namespace without IPv6 reaches no IPv6 address, and needs no route. */
        if (!is_done && to->family == AF_INET6 && (errno == EOPNOTSUPP || errno == EAFNOSUPPORT))
            continue;
        if (!is_done)
            return fail_route(to, err);
    }
    return 0;
}

/* Returns whether a process serves the TAP device `device`. Only then does the kernel report a
 * link. */
static bool is_served(const char *device)
{
    struct ethtool_value link = {.cmd = ETHTOOL_GLINK};
    struct ifreq request = {.ifr_data = (void *)&link};
    un_auto_close int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
    return any >= 0 && !ioctl(any, SIOCETHTOOL, &request) && link.data;
}

int route_name_server(const char *device, struct un_error *err)
{
    struct prefix server = {.family = AF_INET, .length = 32};
    unsigned index = if_nametoindex(device);
    un_auto_close int netlink = open_netlink();
    inet_pton(AF_INET, NAME_SERVER_4, server.address);
    if (!index || !is_served(device))
        return un_fail(err, UN_STEP_NETWORK, 0, "pasta-failed",
                       "pasta has exited, or has not configured its network device");
    if (netlink < 0)
        return un_fail_errno(err, UN_STEP_NETWORK, "can't open a netlink socket");
    struct new_route request = begin_route(&server, RTN_UNICAST);
    add_attribute(&request, RTA_OIF, &index, sizeof index);
    return request_route(netlink, &request) ? fail_route(&server, err) : 0;
}
