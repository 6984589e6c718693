/*
 * Which engines there are, and which one a partition gets: by its engine property, else by OPENWHP_ENGINE in the
 * environment, else automatically. An engine that was asked for by name is never silently replaced.
 */
#ifndef OWHP_CORE_ENGINES_H
#define OWHP_CORE_ENGINES_H

#include "engine/engine.h"

/* Values of the engine property. */
enum engine_choice { ENGINE_AUTO = 0, ENGINE_SOFT = 1, ENGINE_KVM = 2 };

/*
 * The engine for a choice; ENGINE_AUTO looks at the environment first.
 * STATUS_INVALID_ARGUMENT                   not a choice
 * STATUS_UNSUPPORTED_HYPERVISOR_CONFIG      unknown name in the environment, or the engine cannot be used here
 * STATUS_ACCESS_DENIED                      it cannot be used by this user
 */
must_check enum status engine_select(uint32_t choice, const struct engine **engine);

/* The same for ENGINE_AUTO; `why` (128 bytes are enough) says in words why this one. */
must_check enum status engine_select_auto(const struct engine **engine, char *why, size_t size);

/* What kind an engine is (never ENGINE_AUTO). */
enum engine_choice engine_kind(const struct engine *engine);

/*
 * The engine, if it is usable here. When not, `why` (may be NULL with size 0) says what is missing.
 * STATUS_INVALID_ARGUMENT               not ENGINE_SOFT or ENGINE_KVM
 * STATUS_ACCESS_DENIED                  not usable by this user
 * STATUS_UNSUPPORTED_HYPERVISOR_CONFIG  not usable
 */
must_check enum status engine_query(uint32_t kind, const struct engine **engine, char *why, size_t size);

/* Tests only: stands in for the engine of that kind from now on; NULL ends that. */
void engine_replace(enum engine_choice kind, const struct engine *engine);

#endif
