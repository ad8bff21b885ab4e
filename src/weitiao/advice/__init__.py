"""Which method to use, with reasons that cite numbers, how sure, and what would flip it.

facts.py says what is known of a case, probe.py measures how near the task is to what the checkpoint knows, rules.py is the
table of rules, decide.py counts them, advise.py gathers and answers. No language model is asked.
"""
