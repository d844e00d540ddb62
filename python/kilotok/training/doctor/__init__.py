"""Why a drafter is accepted less than it should be: `kilotok drafter check`.

A drafter that is read wrongly looks exactly like a bad one. The doctor holds a bank of readings
(`bank`), each one way to get a checkpoint or an engine wrong that somebody met, and asks two
questions with a numpy drafter (`forward`): would another reading of these files be accepted more,
and which reading explains drafts that an engine served? What files alone can tell is in `files`.
Needs numpy only.
"""
