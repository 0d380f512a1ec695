"""House rules of a community: the rule is part of the input, and code knows the truth.

Every comment appears as a twin: under one rule that it breaks and one that it keeps. The comment alone predicts
nothing by construction, and each rule is broken about as often as kept, so the rule alone predicts nothing
either. Most families are about words, because a small model learns those in minutes; punctuation and counting
rules are known to be hard at this size (three are in, honestly marked).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

from bessemer.data.builtin import comments
from bessemer.data.items import Item, Message

SYSTEM = "Does the comment break the rule?"
SEED = 20261123
TWINS = {"train": 1100, "trained": 120, "new-wording": 70, "new-rule": 70}


@dataclass(frozen=True)
class Family:
    """A rule: what breaks it, and how people word it. The last wording is kept for the test."""

    name: str
    broken_by: re.Pattern[str]
    wordings: tuple[str, ...]

    def breaks(self, comment: str) -> bool:
        return bool(self.broken_by.search(comment))


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(patterns)})\b", re.IGNORECASE)


def _family(name: str, pattern: re.Pattern[str], *wordings: str) -> Family:
    return Family(name, pattern, wordings)


TRAINED = (
    _family(
        "love",
        _words("lov(?:e|es|ed|ing|ely|er|ers)"),
        "Do not talk about love.",
        "No love, please.",
        "The word love is not allowed.",
        "Nobody may write about loving things.",
        "Comments about love are banned.",
    ),
    _family(
        "films",
        _words("films?", "movies?", "cinema"),
        "Do not talk about films.",
        "No movies here.",
        "Do not mention a movie or film.",
        "Film talk belongs elsewhere.",
        "Comments about movies are banned.",
    ),
    _family(
        "money",
        _words("money", "prices?", "priced", "cheap", "expensive", "cost", "costs", "dollars?", "bucks"),
        "Do not talk about money.",
        "No prices or costs.",
        "Do not mention what things cost.",
        "Money talk belongs elsewhere.",
        "Comments about prices are banned.",
    ),
    _family(
        "music",
        _words("music", "musical", "songs?", "sing", "singing", "singer", "album", "concert"),
        "Do not talk about music.",
        "No songs or singers.",
        "Do not mention music or songs.",
        "Music talk belongs elsewhere.",
        "Comments about songs are banned.",
    ),
    _family(
        "gadgets",
        _words("cameras?", "phones?", "players?", "battery", "batteries", "ipod", "computer", "screen"),
        "Do not talk about gadgets.",
        "No phones, cameras or players.",
        "Do not mention devices and batteries.",
        "Gadget talk belongs elsewhere.",
        "Comments about cameras or phones are banned.",
    ),
    _family(
        "you",
        _words("you", "your", "yours", "you're", "u"),
        "Do not address other people.",
        "Do not write you or your.",
        "Leave other readers out: no you.",
        "Do not speak to the reader as you.",
        "Comments that say you are banned.",
    ),
    _family(
        "contrast",
        _words("but", "though", "although", "however"),
        "Do not use the word but.",
        "No but or though.",
        "Do not write but, though or however.",
        "No buts.",
        "Comments with a but are banned.",
    ),
    _family(
        "funny",
        _words("funny", "fun", "humou?r", "comedy", "comic", "laughs?", "jokes?", "hilarious", "lol", "haha"),
        "Do not talk about fun or humor.",
        "No jokes and nothing funny.",
        "Do not mention comedy or laughing.",
        "Humor belongs elsewhere.",
        "Comments about funny things are banned.",
    ),
    _family(
        "story",
        _words("story", "stories", "plot", "script", "screenplay", "tale"),
        "Do not talk about the story.",
        "No plots or scripts.",
        "Do not mention a story or plot.",
        "Story talk belongs elsewhere.",
        "Comments about the plot are banned.",
    ),
    _family(
        "people",
        re.compile(r"@\w"),
        "Do not mention other users.",
        "No @ names.",
        "Do not tag anyone with @.",
        "Do not call out another user.",
        "Comments that tag a user are banned.",
    ),
    _family(
        "days",
        _words("today", "tonight", "tomorrow", "yesterday", "morning", "weekend", "monday", "friday", "sunday"),
        "Do not say when it happens.",
        "No today, tonight or tomorrow.",
        "Do not mention days of the week.",
        "Talk about dates and days belongs elsewhere.",
        "Comments about today or tomorrow are banned.",
    ),
    _family(
        "family",
        _words("moms?", "mother", "dad", "father", "kids?", "child", "children", "sons?", "daughter", "family"),
        "Do not talk about family.",
        "No parents or children.",
        "Do not mention kids, moms or dads.",
        "Family talk belongs elsewhere.",
        "Comments about children or parents are banned.",
    ),
    _family(
        "questions",
        re.compile(r"\?"),
        "Do not ask questions.",
        "No questions.",
        "Do not use a question mark.",
        "Questions belong elsewhere.",
        "Comments with a question are banned.",
    ),
    _family(
        "links",
        re.compile(r"https?://|\bbit\.ly/"),
        "Do not post links.",
        "No links.",
        "Do not share a web address.",
        "URLs belong elsewhere.",
        "Comments with a link are banned.",
    ),
)
UNSEEN = (
    _family(
        "acting",
        _words("act", "acting", "actors?", "actress", "performances?", "cast", "role"),
        "Do not talk about acting.",
        "No actors or performances.",
        "Do not mention actors or their roles.",
        "Acting talk belongs elsewhere.",
        "Comments about actors are banned.",
    ),
    _family(
        "thanks",
        _words("thanks?", "thx", "thankful", "thank"),
        "Do not thank anyone.",
        "No thanks.",
        "Do not write thank you.",
        "Saying thanks belongs elsewhere.",
        "Comments with thanks are banned.",
    ),
    _family(
        "work",
        _words("works?", "job", "jobs", "working", "worked", "boss", "office"),
        "Do not talk about work.",
        "No jobs or work.",
        "Do not mention work or the office.",
        "Work talk belongs elsewhere.",
        "Comments about jobs are banned.",
    ),
    _family(
        "praise",
        _words("good", "great", "excellent", "awesome", "amazing"),
        "Do not praise anything.",
        "Do not write good or great.",
        "No good, great or excellent.",
        "Praise belongs elsewhere.",
        "Comments that call something good or great are banned.",
    ),
    _family(
        "numbers",
        re.compile(r"\d"),
        "Do not use numbers.",
        "No digits.",
        "Do not write a number in digits.",
        "Numbers belong elsewhere.",
        "Comments with a number are banned.",
    ),
    _family(
        "capitals",
        re.compile(r"\b[A-Z]{3,}\b"),
        "Do not shout in capitals.",
        "No words in all caps.",
        "Do not write a word in capital letters.",
        "Shouting in caps belongs elsewhere.",
        "Comments with a word in all caps are banned.",
    ),
)


def ask(rule: str, comment: str) -> tuple[Message, ...]:
    """The prompt: one question, one rule, one comment."""
    return (
        Message("system", SYSTEM),
        Message("user", f"Rule: {rule}\nComment: {comment}"),
    )


@cache
def read(split: str) -> list[Item]:
    """Twins for `train`, or held-out ones: `trained` rules, `new-wording`, `new-rule`.

    Each item is a conversation with the answer yes (broken) or no (kept); twins share `group`.
    """
    test = split != "train"
    families = UNSEEN if split == "new-rule" else TRAINED
    rng = random.Random(f"{SEED} {split}")
    usable = [(i, c) for i, c in comments.domain_comments(test=test) if 3 <= len(c.split()) <= 13]
    rng.shuffle(usable)
    n_twins = TWINS[split]
    yes: Counter[str] = Counter()
    no: Counter[str] = Counter()
    items: list[Item] = []
    for number, comment in usable:
        if len(items) == 2 * n_twins:
            break
        broken = [f for f in families if f.breaks(comment)]
        kept = [f for f in families if not f.breaks(comment)]
        # A family at its share of the twins waits for the others; that keeps rare families visible.
        broken = [f for f in broken if yes[f.name] <= 1.3 * n_twins / len(families)]
        if not broken or not kept:
            continue
        break_it = min(broken, key=lambda f: (yes[f.name], rng.random()))
        keep_it = max(kept, key=lambda f: (yes[f.name] - no[f.name], rng.random()))
        yes[break_it.name] += 1
        no[keep_it.name] += 1
        for family, answer in ((break_it, "yes"), (keep_it, "no")):
            wording = family.wordings[-1] if split == "new-wording" else rng.choice(family.wordings[:-1])
            items.append(
                Item(
                    id=f"{split}:{number}:{family.name}",
                    messages=(*ask(wording, comment), Message("assistant", answer)),
                    group=f"{split}:{number}",
                    meta={"rule": family.name, "licence": comments.LICENCE},
                )
            )
    return items
