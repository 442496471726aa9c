/* Causes that several places name. Internal. */
#ifndef USERNSCTL_EXPLAIN_DIAGNOSE_H
#define USERNSCTL_EXPLAIN_DIAGNOSE_H

/* Why a file in PROC is refused to its owner (EACCES): by what confines us, or who writes it for
 * us. NULL: nothing is known that does. */
const char *un_cause_of_closed_proc(const char *proc);

#endif
