/*
 * Doorbells, by themselves and as notification ports. A port's handle is the number of its doorbell. An event is a descriptor
 * of eventfd(2) in the place of a HANDLE (openwhp.h).
 */
#include "api/api.h"

#include "mem/gpa_doorbell.h"

static enum status bad_match(const char *why)
{
    return fail(STATUS_INVALID_ARGUMENT, "MatchData: %s", why);
}

/* The rules of the API page "Doorbell Data Types"; those on addresses are the space's. */
static enum status convert_match(const WHV_DOORBELL_MATCH_DATA *match, struct gpa_doorbell *out)
{
    if (match->Reserved)
        return bad_match("reserved bits are set");
    if (match->MatchOnLength && match->Length != 1 && match->Length != 2 && match->Length != 4 && match->Length != 8)
        return bad_match("Length is not 1, 2, 4 or 8");
    if (!match->MatchOnLength && (match->Length || match->MatchOnValue))
        return bad_match("Length or MatchOnValue without MatchOnLength");
    if (!match->MatchOnValue && match->Value)
        return bad_match("Value without MatchOnValue");
    *out = (struct gpa_doorbell){.gpa = match->GuestAddress, .value = match->Value, .length = match->Length,
                                 .match_value = match->MatchOnValue};
    return STATUS_OK;
}

static enum status read_match(const WHV_DOORBELL_MATCH_DATA *data, struct gpa_doorbell *out)
{
    WHV_DOORBELL_MATCH_DATA match;

    enum status status = require_pointer(data, "MatchData");
    if (status == STATUS_OK)
        status = caller_read(&match, data, sizeof(match), "MatchData");
    return status == STATUS_OK ? convert_match(&match, out) : status;
}

static int event_of(HANDLE handle)
{
    const uintptr_t value = (uintptr_t)handle;

    return value <= INT32_MAX ? (int)value : -1;
}

/* ---- doorbells ---- */

static enum status register_doorbell(struct partition *partition, const WHV_DOORBELL_MATCH_DATA *data, HANDLE event)
{
    struct gpa_doorbell doorbell;
    uint64_t id;

    enum status status = partition_require_set_up(partition);
    if (status == STATUS_OK)
        status = read_match(data, &doorbell);
    return status == STATUS_OK ? gpa_doorbell_create(partition->space, &doorbell, event_of(event), &id) : status;
}

HRESULT WINAPI WHvRegisterPartitionDoorbellEvent(WHV_PARTITION_HANDLE Partition,
                                                 const WHV_DOORBELL_MATCH_DATA *MatchData, HANDLE EventHandle)
{
    RETURN_ON_PARTITION(Partition, register_doorbell(partition, MatchData, EventHandle));
}

static enum status unregister_doorbell(struct partition *partition, const WHV_DOORBELL_MATCH_DATA *data)
{
    struct gpa_doorbell doorbell;
    uint64_t id;

    enum status status = partition_require_set_up(partition);
    if (status == STATUS_OK)
        status = read_match(data, &doorbell);
    if (status == STATUS_OK)
        status = gpa_doorbell_find(partition->space, &doorbell, &id);
    return status == STATUS_OK ? gpa_doorbell_delete(partition->space, id) : status;
}

HRESULT WINAPI WHvUnregisterPartitionDoorbellEvent(WHV_PARTITION_HANDLE Partition,
                                                   const WHV_DOORBELL_MATCH_DATA *MatchData)
{
    RETURN_ON_PARTITION(Partition, unregister_doorbell(partition, MatchData));
}

/* ---- notification ports ---- */

static enum status check_port(const WHV_NOTIFICATION_PORT_PARAMETERS *port)
{
    if (port->NotificationPortType != WHvNotificationPortTypeDoorbell &&
        port->NotificationPortType != WHvNotificationPortTypeEvent)
        return fail(STATUS_INVALID_ARGUMENT, "Parameters: %u is no type of notification port", port->NotificationPortType);
    if (port->Reserved || port->Reserved1 || port->ConnectionVtl)
        return fail(STATUS_INVALID_ARGUMENT, "Parameters: reserved fields or ConnectionVtl are not 0");
    if (port->NotificationPortType == WHvNotificationPortTypeEvent)
        return fail(STATUS_NOT_SUPPORTED, "this platform has no hypercalls that signal events");
    return STATUS_OK;
}

static enum status create_port(struct partition *partition, const WHV_NOTIFICATION_PORT_PARAMETERS *parameters, HANDLE event,
                               WHV_NOTIFICATION_PORT_HANDLE *out)
{
    WHV_NOTIFICATION_PORT_PARAMETERS port;
    struct gpa_doorbell doorbell;
    uint64_t id;

    enum status status = partition_require_set_up(partition);
    if (status == STATUS_OK)
        status = require_pointer(parameters, "Parameters");
    if (status == STATUS_OK)
        status = require_pointer(out, "PortHandle");
    if (status == STATUS_OK)
        status = caller_read(&port, parameters, sizeof(port), "Parameters");
    if (status == STATUS_OK)
        status = check_port(&port);
    if (status == STATUS_OK)
        status = convert_match(&port.Doorbell, &doorbell);
    if (status == STATUS_OK)
        status = caller_writable(out, sizeof(*out), "PortHandle");
    if (status == STATUS_OK)
        status = gpa_doorbell_create(partition->space, &doorbell, event_of(event), &id);
    if (status != STATUS_OK)
        return status;
    const WHV_NOTIFICATION_PORT_HANDLE handle = (WHV_NOTIFICATION_PORT_HANDLE)(uintptr_t)id;
    return caller_write(out, &handle, sizeof(handle), "PortHandle");
}

HRESULT WINAPI WHvCreateNotificationPort(WHV_PARTITION_HANDLE Partition,
                                         const WHV_NOTIFICATION_PORT_PARAMETERS *Parameters, HANDLE EventHandle,
                                         WHV_NOTIFICATION_PORT_HANDLE *PortHandle)
{
    RETURN_ON_PARTITION(Partition, create_port(partition, Parameters, EventHandle, PortHandle));
}

static enum status no_such_port(void)
{
    return fail(STATUS_BAD_HANDLE, "PortHandle is not the handle of a notification port of this partition");
}

/* Which processor a port prefers to tell: a doorbell tells none, so there is nothing to remember. */
static enum status set_port(struct partition *partition, WHV_NOTIFICATION_PORT_HANDLE handle,
                            WHV_NOTIFICATION_PORT_PROPERTY_CODE code, WHV_NOTIFICATION_PORT_PROPERTY value)
{
    enum status status = partition_require_set_up(partition);

    if (status != STATUS_OK)
        return status;
    if (!gpa_doorbell_exists(partition->space, (uintptr_t)handle))
        return no_such_port();
    if (code != WHvNotificationPortPropertyPreferredTargetVp && code != WHvNotificationPortPropertyPreferredTargetDuration)
        return fail(STATUS_INVALID_ARGUMENT, "%u is no property of a notification port", code);
    if (code == WHvNotificationPortPropertyPreferredTargetVp && value > WHV_ANY_VP)
        return fail(STATUS_INVALID_ARGUMENT, "0x%llx is no index of a processor", (unsigned long long)value);
    return STATUS_OK;
}

HRESULT WINAPI WHvSetNotificationPortProperty(WHV_PARTITION_HANDLE Partition, WHV_NOTIFICATION_PORT_HANDLE PortHandle,
                                              WHV_NOTIFICATION_PORT_PROPERTY_CODE PropertyCode,
                                              WHV_NOTIFICATION_PORT_PROPERTY PropertyValue)
{
    RETURN_ON_PARTITION(Partition, set_port(partition, PortHandle, PropertyCode, PropertyValue));
}

static enum status delete_port(struct partition *partition, WHV_NOTIFICATION_PORT_HANDLE handle)
{
    enum status status = partition_require_set_up(partition);

    if (status != STATUS_OK)
        return status;
    status = gpa_doorbell_delete(partition->space, (uintptr_t)handle);
    return status == STATUS_NOT_FOUND ? no_such_port() : status;
}

HRESULT WINAPI WHvDeleteNotificationPort(WHV_PARTITION_HANDLE Partition, WHV_NOTIFICATION_PORT_HANDLE PortHandle)
{
    RETURN_ON_PARTITION(Partition, delete_port(partition, PortHandle));
}
