"""What a rule says and what code decides are the same: else the label is wrong."""

from __future__ import annotations

import re

import pytest

from bessemer.data.rule_families import families

ROWS = """
give + he gave in
give - a gift
see + I looked up
see - a seesaw is fun
say + he told me
say - a teller
every + each one
every - overall
every - y'all
compare + less is more
compare - lesson one
bad + that is Bad
bad - badly made
minutes + two hours ago
minutes - an hourly rate
ending-ed + it is RED
ending-ed + I used it
ending-ed - an editor
double-letters + a good one
double-letters + OOh
double-letters - 1001 days
double-letters - is so
first-letter-i + "it works
first-letter-i + 3 Is enough
first-letter-i - Oh, I see
first-letter-i - éi
not-short + he doesn’t care
not-short + I CAN'T
not-short - do not
not-short - cant
exclamation-end + no!!
exclamation-end - no! yes
exclamation-end - no!)
money + It pays the rent
money + that is $390 CAD
money - pay attention
gadgets - our players are healthy
gadgets + a DVD player
you + suit yourself
you + y’all are welcome
contrast + nice tho
people + thank you /u/someone
people - write to me@mail.com
days + see you on Thursday
days + due on September 9th
days - on any other morning
family + my wife and her brother
family - a tough son of a bitch
questions + bf1?Wow
questions - https://a.b/?page=2
links + look at www.place.org
links + it was itch.io I think
acting - you act like a child
acting - a role model
acting - gender roles
thanks + thankyou so much
capitals - thank you [NAME] for it
capitals + NASA is here
capitals - OK then, on TV
no-end - He asked why:
no-end - Look at this;
no-end - I said 'no'
no-end + That is awful :)
no-end + It costs 100%
no-end + Thanks [NAME]
no-end - (so they say)
names + I live in the USA
names + on TV they said so
names + thank you [NAME] for it
names - So I went and I'm here
names - NASA is here
names - He left. Peter stayed.
lower-start + "hello" he said
lower-start + ...and then it rained
lower-start - 5 dollars is fine.
lower-start - "Hello" he said
two-capitals - WE'LL see
two-capitals - It is NO joke
two-capitals + the QB's arm
two-capitals + two shows in LA
long-number + about 35,000 of them
long-number + 1,000,000 times
long-number - 1,500 of them in 2015
long-number - in 2015, 100 of them
hyphens + They won 3-4 today
hyphens + covid-19 is back
hyphens - so - no
question-words + Which one is it
question-words + Whose is this
question-words + Whom did you ask
question-words + "What is this
question-words - Whatever you say
apostrophes + the students' work
apostrophes + 'cause I said so
apostrophes - the work of students
body + my head hurts
body + his arm and his chest
body + a face like that
body + left hand
body + the whole body
body - on the other hand
body - heads up
body - head over there
swearing + wtf is this
swearing + kick his ass
swearing + what a bitch
swearing + motherfucker
swearing - a class of glass
swearing - hello there
countries + in Spain
countries + an Italian from Brazil
countries + Ireland is green
countries + moved to the US
countries - JOIN US NOW
countries - tell us more
countries - polish the table
number-words + thirteen of them
number-words + nineteen
number-words + sixty or ninety
number-words - one of them
colours + a gray sky
colours + a grey sky
colours - the sky
politics + the elections are near
politics + a politician said so
politics - a birthday party
health + my health is bad
health + mental illnesses
health - sick of it
clock + at 3 PM
clock + at 7.30 pm
clock + 10 o'clock
clock - John 3:16 says so
clock - wait until 40:20 of it
clock + at 10:30 we left
first-person - many things, i.e. all of them
first-person + Im here
first-person + So do I.
smileys - TL;DR it is long
smileys - Note:Do it
smileys + nice xD
smileys + oh well :/
smileys - see https://x.org
all-capitals - 你好吗朋友
all-capitals - שלום לכולם
all-capitals + STOP IT NOW
sentences - Thank you! 😀
sentences - Well... maybe so.
sentences - Ask Mr. Smith about it
sentences + He said "no." Then he left.
sentences - "What?" he asked
sentences-least-2 + Great. :)
long - a b c d e f g h i j k l m n o - 😀
short + one two - three four five
repeats + Yes, yes
repeats + so I I went
repeats - that that's true
repeats - s p o o k y
stretched + Ooo nice
stretched - World War III
stretched - www
other-script - /ˈbɪɡət/
slash + this / that
small-i + well...i think
small-i + so do i.
small-i - i.e. this
years + in the 1990s
years + since 1776
years - about 2000 people
hashtags + (#cool
hashtags - page#top
amounts + only $.50
doing + DOING it
manner + REALLY
ordinals + the 1ST one
symbols + only $ and #
weather + the sun is out
weather + strong wind
weather - wind up here
sports + two leagues
sports + the NFL
sports - so many games
religion + an atheist went to churches
religion - oh my god
school + the colleges
school - the working class
cars - my bike
travel + two airports
games + videogames
games + gameplay
weapons + nuclear missiles
alcohol + alcoholism
edits - a typo
edits + video editing
sorry - I regret it
sorry + she apologised
greeting + good morning
greeting - you're welcome
hate-word + a hater
doubt + it is probable
doubt + I was guessing
months + back in March
months + on May 5th
months - May I ask
months - march on
clothes + an old fashion
clothes + worn coats
hair + two haircuts
sleep + two beds
sleep + waking early
sleep + fast asleep
romance + two wives and husbands
romance + a romance
romance - up to date
police + prisoners
police - do not judge me
war + warfare
death + killing people
internet + she tweeted
reddit + see r/cats
reddit + so much karma
home + the rooms
home + at home
home - no room for it
nature + the forests
nature + wild nature
animals + a chicken
parties + celebrations
parties + he is celebrating
parties - the Democratic party
parties - present company
agreement - I don't agree
agreement + she agrees
disagreement + we had a disagreement
surprise + what surprises me
insults + so idiotic
looks + her beauty
sadness + heartbroken
fear + I worry
anger + so mad
hope + hopeful
luck + many blessings
wanting + wanna go
thinking - my opinion
thinking + two thoughts
very - super cool
very + sooo good
reasons - the reason
conditions - unless you go
conditions + I wouldn't
duty - supposed to go
duty + you mustn't
future + I'll go
future + going to rain
future - going to school
men + a lone dude
friends + thanks friend
pictures + a drawing
size + what size
age + old people
age - an old chair
denying - none of them
denying + I wouldnt
seconds + it is hers, not theirs: themselves
past - long ago
bots + chatbots
science + a scientific study, studied
water + smoothies
drugs + a cigar
books + audiobooks
television + season 3
pets + a hamster
food + two meals
"""


def rows() -> list[tuple[str, str, bool]]:
    parts = (re.split(" ([+-]) ", line, maxsplit=1) for line in ROWS.strip().splitlines())
    return [(name, text, sign == "+") for name, sign, text in parts]


@pytest.mark.parametrize(("name", "text", "broken"), rows())
def test_code_decides_what_the_wordings_say(name: str, text: str, broken: bool) -> None:
    """+: breaks the rule, -: keeps it."""
    assert families()[name].breaks(text) is broken


FRAME = """
do not or are and nothing of out get here keep limits off posts removed this thread about talk other no that banned
comments elsewhere write the with say mention belongs belong a an is its itself it all being like any in people
something else word what words form rest call calling anyone anything use name their one so for forms as such to at
kind kinds just even when be on than some another general whatever worse someone
"""  # what gives the wordings their form
CLASS = {  # names of the class, and what else is no instance of it
    "love": "allowed may nobody please", "money": "things", "you": "leave reader readers speak",
    "contrast": "have place", "funny": "things", "days": "day days happens week which", "thanks": "saying you",
    "praise": "called may",
    "politics": "parties", "pets": "animals live", "school": "studying", "greeting": "greet greeting",
    "please": "asking", "first-person": "leave singular yourself first person", "hate-word": "saying",
    "always": "happens", "months": "year month months", "colours": "colours colour", "alcohol": "drinks",
    "edits": "was", "body": "parts", "police": "law",
    "countries": "country countries nations nationalities", "reddit": "site", "television": "shows",
    "home": "live where", "parties": "feasts", "agreement": "saying you", "surprise": "act show",
    "swearing": "curses profanity swear", "insults": "names insult insults bad", "looks": "looks", "sadness": "feeling",
    "luck": "good bad", "future": "still going come happen comes", "men": "addressed", "friends": "nobody best",
    "age": "old someone's", "new": "things", "number-words": "above letters number numbers", "denying": "n't short",
    "water": "soft drinks", "bad": "may used",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, f in families().items() if f.about_words])
def test_whatever_a_wording_names_breaks_the_rule(name: str) -> None:
    family = families()[name]
    named = {w for wording in family.wordings for w in re.findall(r"[a-z]+(?:['’-][a-z]+)*", wording.lower())}
    assert {w for w in named if not family.breaks(w)} <= {*FRAME.split(), *CLASS.get(name, "").split()}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lower-start", "small letter|lower case"),
        ("no-end", "punctuation"),
        ("two-capitals", "(?i)abbreviation|TV"),
        ("question-end", r"question mark|\?"),
        ("quotes", '"|double'),
    ],
)
def test_every_wording_says_what_the_truth_is_about(name: str, says: str) -> None:
    assert [w for w in families()[name].wordings if not re.search(says, w)] == []


def test_nothing_is_no_error() -> None:
    assert not any(f.breaks("") for name, f in families().items() if name != "short" and "least" not in name)
