# SPDX-License-Identifier: MIT OR Apache-2.0
"""A grammar that tells little stories. All of its text was written for this project.

A template is plain text with two marks: `[a|b|c]` stands for one of its
alternatives (they nest, and may be empty), and `{slot}` for a word of the cast.
The cast of a story (who, where, with what) is drawn once and kept, so names,
pronouns and things agree from the first sentence to the last.

The cast is small: the hero, a child; at most one friend, an animal with a name; at most one
elder. Pronouns of a person always mean the hero, and a character is named before anything is
told of it. A name always stands after a space, so that it is the same token everywhere.

Slots: `{H}` the hero, `{he}`, `{him}`, `{his}` and their capital forms; `{child}` "girl" or
"boy". `{F}` the friend, `{f}` "fox", `{af}` "a fox". `{E}` the elder. `{o}` the thing, "kite",
`{ao}` "a red kite", `{use}` "fly it", `{look}` what it does. Of the place: `{in}` a `{home}`,
`{spot}`, `{far}`, `{way}`, `{nook}`.

Run as a program it prints stories: `python corpus.py --seed 1 --count 3`.
"""

import argparse
import random
import re

GIRLS = "Mia Ada Lena Nora Ivy Rosa Tilda Wren Edda Juna Clara Maren Suri Olga Pia Kaya Ines Greta Lucy Frida Anna Zoe Elsa Ruth".split()
BOYS = "Tom Ben Finn Otto Leo Jonas Milo Hugo Emil Kofi Arlo Timo Rafi Nils Bruno Sami Theo Ravi Max Paul Anton Karl Noah Sven".split()
ANIMAL_NAMES = "Pip Nib Bramble Dot Tuft Moss Pepper Hopper Thistle Button Clover Acorn Twig Puddle Fern Biscuit Pebble Sorrel Nutmeg Bobbin Ginger Tansy Crumb Juniper".split()
ANIMALS = "fox hedgehog rabbit mouse squirrel badger otter bear frog duck goat owl mole beaver".split()
TRAITS = "kind curious cheerful quiet brave clever shy busy gentle merry stubborn dreamy".split()
ELDERS = "Grandmother Grandfather Mother Father".split()

# A thing: noun, what one does with it, its colours or kinds, its sound or look when used.
THINGS = [
    ("kite", "fly it", "red blue yellow striped", "danced high in the wind"),
    ("boat", "sail it", "wooden white blue small", "rocked gently on the water"),
    ("drum", "play it", "round red tin small", "went boom, boom, boom"),
    ("lantern", "light it", "brass green paper old", "glowed like a small moon"),
    ("scarf", "wear it", "long woolly striped red", "was soft and warm"),
    ("bell", "ring it", "silver copper tiny old", "rang clear and bright"),
    ("ball", "roll it", "green yellow shiny spotted", "bounced up and down"),
    ("whistle", "blow it", "wooden tin silver small", "sang like a bird"),
    ("wagon", "pull it", "red wooden small blue", "rattled over the stones"),
    ("hat", "wear it", "straw tall green feathered", "had a wide brim and a ribbon"),
    ("book", "read it", "thick blue old small", "was full of tales"),
    ("puppet", "play with it", "wooden funny small woolly", "bowed and waved"),
    ("blanket", "carry it", "soft patched blue warm", "was as cosy as a nest"),
    ("flute", "play it", "bamboo silver thin wooden", "made a sweet sound"),
]

# A setting: preposition, home, spot (near), far (a place to reach), way, nook (where things hide).
SETTINGS = [
    ("in", "village by the sea", ("the harbour", "the beach", "the pier"), ("the lighthouse", "the white cliffs"),
     ("the sandy path", "the shore road"), ("behind a heap of nets", "between two rocks", "under an old anchor")),
    ("in", "house at the edge of the forest", ("the clearing", "the old oak", "the brook"), ("the hollow tree", "the fairy valley"),
     ("the mossy path", "the winding track"), ("under a bush", "behind a fallen log", "in a heap of leaves")),
    ("on", "farm among green hills", ("the barn", "the gate", "the orchard"), ("the windmill", "the market"),
     ("the dusty lane", "the farm road"), ("behind the hay", "under the apple tree", "beside the water trough")),
    ("in", "small town with crooked roofs", ("the square", "the fountain", "the well"), ("the clock tower", "the toy shop"),
     ("the main street", "the narrow lane"), ("behind a flower pot", "under a bench", "on a low wall")),
    ("in", "valley between two mountains", ("the lake", "the waterfall", "the stone bridge"), ("the snowy peak", "the blue cave"),
     ("the steep path", "the stony trail"), ("behind a boulder", "beside a spring", "under a pine tree")),
    ("in", "cottage beside a wide river", ("the landing", "the willow", "the reeds"), ("the water mill", "the island"),
     ("the river path", "the muddy track"), ("among the lilies", "under a root", "behind a stack of baskets")),
]

FOODS = "bread|warm soup|apple cake|honey buns|plums|berry pie|pancakes|cheese|pears"

OPENING = (
    "[Once upon a time|Once upon a time|Long ago] there was a {trait} {child} called {H}. {H} lived {in} a {home}."
    "|[Once upon a time|Once upon a time|Once], {in} a {home}, there lived a {trait} {child} called {H}."
    "|Once upon a time a {trait} {child} named {H} lived {in} a {home}."
    "|{In} a {home} lived {H}, a {trait} {child}."
    "|There was once a {trait} {child} called {H}, who lived {in} a {home}."
)
LIKES = "[ [{H}|{He}] [loved|liked] [to sing|to climb|to count the stars|old tales|to ask questions|to watch the clouds].| [{H}|{He}] had [a loud laugh|a warm heart|many ideas|bright eyes].||]"
FINE = "[The sun was [warm|bright] and the sky was [blue|clear].|The birds were singing and a light wind blew.|Small white clouds sailed over the roofs.]"
ROUGH = "[Then dark clouds came and the wind [howled|grew strong].|Then the rain came down.|Then thunder rumbled over {far}.]"
TREASURE = (
    "[{H}|{He}] had {ao} [that was a gift from {E}|and took it everywhere|and loved it very much]. [The {o} {look}.|]"
    "|For {his} birthday {E} gave {H} {ao}. [The {o} {look}.|\"Take good care of the {o},\" said {E}.]"
)
SADNESS = "[{H} was very sad.|{H} sat down and sighed.|A tear rolled down {his} nose.|{His} eyes filled with tears.]"
JOY = "[{H} laughed for joy.|{H} was so happy that {he} danced.|{H} smiled from ear to ear.|{His} heart felt light.]"
THANKS = "[\"Thank you, {F},\" said {H}.|\"Thank you, {F}. You are a true friend,\" said {H}.|\"You are very kind, {F},\" said {H}.]"
HOME_AGAIN = (
    "[In the evening|When the sun went down|At dusk] {H} and {F} [walked|went] home [together|side by side|along {way}]."
    "[| At home they ate {food}.| That night {H} slept well.| {H} told {E} the whole story.]"
)
ENDS = (
    "[And from that day on|After that] {H} and {F} were [the best of friends|good friends|always together]."
    "|And {H} and {F} lived happily ever after.|And that was the [best|happiest] day of the [year|summer].|The end.||"
)
ENDS_ALONE = "And {H} lived happily ever after.|And that was the [best|happiest] day of the [year|summer].|{H} never forgot that day.|The end.|"

PLOTS = {}


def plot(name, moral, *beats, ends=ENDS):
    """Registers a plot: its beats in order, the morals that may close it and the endings."""
    PLOTS[name] = (beats, moral, ends)


plot(
    "lost and found",
    "What is lost can be found when friends look together.|Two pairs of eyes see more than one.",
    TREASURE,
    "One [windy day|afternoon] {H} went to {spot} to {use}. But [on the way home|when it was time to go home] the {o} was gone.",
    "[\"Where is my {o}?\" asked {H}.|\"I must find my {o},\" said {H}.] {H} looked [behind the house|high and low|in the tall grass], but the {o} was not there. " + SADNESS,
    "Then {af} called {F} came along {way}. \"[Why are you so sad?|What is the matter?|What are you looking for?]\" asked [{F}|the {f}]. \"I have lost my {o},\" said {H}. \"[I will help you|We will look together|Do not worry],\" said [{F}|the {f}].",
    "So {H} and {F} looked [everywhere|until the sun was low]. [At last|Suddenly] {F} called, \"[Look|Here it is|Come quickly]!\" The {o} was {nook}.",
    JOY + " " + THANKS,
    HOME_AGAIN,
)

plot(
    "making a friend",
    "Sometimes a friend is only one hello away.|A kind word opens every door.",
    "But {H} had no one to play with. Every day {H} sat alone at {spot}.",
    "One [day|morning] {H} saw {af} at {spot}. The {f} [looked lonely too|was humming a song|sat all alone]. {H} wanted to say hello, but {he} was [too shy|afraid].",
    "So {H} asked {E} what to do. \"[Share something you love|Just smile and say your name|Begin with a small hello],\" said {E}.",
    "[The next day|In the morning] {H} took {ao} and went to {spot}. \"Hello,\" said {H} [softly|bravely]. \"My name is {H}. Would you like to play with my {o}?\"",
    "The {f} [smiled|grinned]. \"[Yes, please|I would love to|Oh yes]!\" said the {f}. \"My name is {F}.\"",
    "So {H} and {F} played with the {o} all [day|afternoon]. The {o} {look}. " + JOY,
    HOME_AGAIN,
)

plot(
    "a promise",
    "A promise is a promise.|A promise kept is worth more than gold.",
    "One day {E} had to go away. \"Will you [water my roses|feed my hens|wind my clock], {H}?\" asked {E}. \"I promise,\" said {H}.",
    "On the first day {H} did it gladly. But on the second day {af} called {F} knocked at the door. \"Come to {spot}, {H},\" said {F}. \"[There is a fair today|Everyone is going|It will be fun].\"",
    "But {H} remembered {his} promise. \"I cannot come yet, {F},\" said {H}. \"I gave my word to {E}.\"",
    "\"Then I will help you,\" said {F}. So {H} and {F} [worked side by side|sang while they worked], and soon everything was done. [There was still time to go to {spot}.|]",
    "When {E} came back, {E} [smiled|was very pleased]. \"You kept your word, {H},\" said {E}, and gave {H} {ao}. The {o} {look}. " + JOY,
)

plot(
    "building something",
    "Little by little, great things are built.|Many hands make light work.",
    "One day {H} wanted to build a {b}. {He} gathered [sticks and string|old boards and nails|branches and rope] and worked all [morning|day].",
    "But in the evening the {b} [fell over|came apart|broke]. " + SADNESS + " \"[It is no use|I am too small for this],\" said {H}.",
    "Then {af} called {F} came along {way}. \"What are you making?\" asked [{F}|the {f}]. \"It was going to be a {b},\" said {H}, \"but it [broke|fell down].\"",
    "\"[The knots are too loose|It needs a strong middle|The bottom must be wider],\" said [{F}|the {f}]. \"Let us build the {b} together.\" So {H} [held|measured] and {F} [pulled|hammered]. [It took two days.|It took three days.|]",
    "At last the {b} was ready. The {b} [stood straight and strong|did not even wobble]. " + JOY + " \"Look at our {b}!\" [cried|said] {F}.",
    HOME_AGAIN,
)

plot(
    "a fear overcome",
    "Being brave means going on although you are afraid.|Fear grows small when you look at it.",
    "But {H} was afraid of {x}. [{H} told nobody about it.|When {H} thought of {x}, {his} knees began to shake.]",
    "Now {H} had a friend, {af} called {F}. One evening {F} did not come home. \"I saw {F} near {far} this morning,\" said {E}.",
    "\"I will go and find {F},\" said {H}. So {E} gave {him} {ao}. \"The {o} will [help you|keep you company],\" said {E}.",
    "Then {H} went along {way}. [Every step was hard.|{H} sang a little song.|{H} counted {his} steps.] \"It is only {x},\" said {H}. \"It cannot eat me.\"",
    "At last {H} heard a small voice. \"Help!\" It was {F}, {nook}. \"You came, {H}!\" said {F}. \"But you are afraid of {x}!\" \"[I still am a little|I forgot to be afraid],\" said {H}.",
    "With the {o} {H} and {F} found the way home. " + JOY,
)

plot(
    "sharing",
    "Shared joy is double joy.|The more you share, the more you have.",
    TREASURE,
    "One day {H} took the {o} to {spot}. There {af} called {F} came along. \"May I [play with|try|hold] your {o}?\" asked [{F}|the {f}]. \"No, the {o} is mine,\" said {H}. So {F} [went away with a sad face|walked away].",
    "Then {H} sat alone at {spot} with the {o}. But [it was no fun|there was nobody to laugh with]. " + SADNESS,
    "At noon {H} was hungry, but {he} had forgotten {his} lunch. There sat {F} with {food}. \"[There is enough for two|Sit down and eat with me], {H},\" said {F}.",
    "\"You share with me, and I did not share with you,\" said {H}. \"I am sorry, {F}.\" Then {H} gave {F} the {o}. The {o} {look}.",
    "So {H} and {F} played with the {o} until [evening|the stars came out]. " + JOY,
    HOME_AGAIN,
)

plot(
    "a mistake mended",
    "Good hearts mend their mistakes.|The truth is hard to say, but light to carry.",
    "Now {E} had {ao} that was very [old|precious]. \"Please do not touch the {o}, {H},\" said {E}. But one day {H} wanted to {use}.",
    "[Splash!|Oh no!] The {o} fell into the mud. {H} hid the {o} {nook}. That night {H} could not sleep.",
    "In the morning {H} met {af} called {F} and told {F} everything. \"[Tell the truth|You should say sorry], {H},\" said {F}. \"I will come with you.\"",
    "So {H} and {F} went to {E}. \"Your {o} fell into the mud,\" said {H}. \"I am very sorry.\" For a while {E} was silent. \"I am sad about the {o}, but I am glad that you told me,\" said {E}.",
    "Then {H}, {F} and {E} cleaned the {o} together. [The {o} had a spot now, but it was still beautiful.|Soon the {o} was as good as new.] " + JOY,
    HOME_AGAIN,
)

plot(
    "a journey",
    "The longest way begins with one small step.|The way is shorter with a friend.",
    "All {his} life {H} had wanted to see {far}. One morning {H} packed {food} and {ao} and set off. " + FINE,
    "On {way} {H} met {af} called {F}. \"Where are you going?\" asked [{F}|the {f}]. \"To {far},\" said {H}. \"May I come too?\" asked {F}. \"Then come with me, {F},\" said {H}.",
    "[Soon|After a while] {H} and {F} came to {obst}. \"What now, {H}?\" asked {F}. {fix}",
    ROUGH + " {H} and {F} hid under a tree. {H} took out the {o}, and the {o} {look}. [That made {F} feel better.|Then {F} was not afraid.]",
    "[In the evening|The next day] {H} and {F} reached {far}. \"[How beautiful|Look, {F}|At last]!\" said {H}. " + JOY,
    "Then {H} and {F} went home [together|side by side]. [At home they ate {food}.|That night {H} slept well.|{H} told {E} the whole story.|]",
)

plot(
    "a riddle",
    "Think first, and then think again.|The answer is often right in front of you.",
    "One day {H} wanted to go to {far}. But on {way} sat {af} called {F}. \"Nobody passes who cannot answer my riddle,\" said [{F}|the {f}].",
    "\"Ask me, {F},\" said {H}. \"{riddle} What am I?\" asked {F}.",
    "For a long time {H} thought. \"Is it [a stone|a bird|the moon|a fish]?\" asked {H}. \"No,\" said {F}. \"[Think again|Try once more], {H}.\" " + SADNESS,
    "Then {H} {clue} \"I know it!\" cried {H}. \"You are {answer}!\"",
    "[Then {F} laughed.|Then {F} bowed.|Then {F} clapped.] \"You are clever, {H},\" said {F}, and gave {H} {ao}. The {o} {look}. " + JOY,
    "So {H} and {F} went on to {far} together. [On the way {F} asked {H} more riddles.|]",
)

plot(
    "a rainy day",
    "Every rain has an end, and some have a rainbow.|You can carry the sun inside you.",
    "One day {H} wanted to take {his} {o} to {spot} and {use}. But it rained [all morning|and rained]. \"[What a bad day|I hate the rain],\" said {H}. " + SADNESS,
    "Then there was a knock at the door. It was {af} called {F}, wet from head to toe. \"[I jumped into every puddle|I love the rain], {H}!\" said {F}. \"But I cannot take my {o} to {spot},\" said {H}.",
    "\"Then let us {r},\" said [{F}|the {f}]. {do}",
    "Then {E} came in and [brought {food}|laughed]. \"May I play too, {H}?\" asked {E}. So {H}, {F} and {E} played with the {o}, and the {o} {look}. " + JOY,
    "When {H} looked out of the window, a rainbow stood over {spot}. \"I like the rain now, {F},\" said {H}.",
)

plot(
    "the little lost one",
    "No one is too small to help.|Small kindness is never wasted.",
    "One day {H} took {ao} to {spot}. There {H} heard a small sound. A {l} sat {nook}. The {l} was [cold|wet|hungry] and all alone.",
    "\"Are you lost, little {l}?\" asked {H}. The {l} looked at {him} with round eyes. \"I will take you home,\" said {H}.",
    "So {H} carried the {l} along {way}. " + ROUGH + " The {l} began to cry. {H} took out the {o}. The {o} {look}, and the {l} was [quiet|happy] again.",
    "Near {far} {H} heard a call. It was the mother of the {l}! The {l} ran to its mother. \"Thank you, {H},\" said the mother. " + JOY,
    "[In the evening|At dusk] {H} told {E} about the {l}. \"You have a kind heart, {H},\" said {E}.",
    ends=ENDS_ALONE,
)

plot(
    "a garden",
    "Good things need time.|Who plants with love will pick with joy.",
    "One spring {E} gave {H} a tiny seed. \"Plant the seed and wait, {H},\" said {E}. So {H} planted the seed near {spot}.",
    "But nothing happened. \"[Grow, little seed|Wake up, little seed]!\" said {H}. Then {af} called {F} came along. \"[The seed needs water, and you need time|A seed cannot be hurried], {H},\" said [{F}|the {f}].",
    "So every day {H} brought water and {F} pulled the weeds. To pass the time {H} and {F} played with {ao}. The {o} {look}.",
    "Then one morning there was a green tip! By summer it was a {s}. " + JOY,
    "\"What shall we do with the {s}, {H}?\" asked {F}. {s.do} \"You waited well, {H},\" said {E}.",
)

plot(
    "a race",
    "It is better to win a friend than a race.|Winning is nice, but helping is better.",
    "Every [summer|autumn] there was a race from {spot} to {far}. The prize was {ao}. {He} wanted to win the {o} more than anything.",
    "On the day of the race everyone came. " + FINE + " \"[Ready, steady, go|One, two, three]!\" called {E}. Soon {H} was in front. Only {af} called {F} was close behind.",
    "Then {F} [fell over a root|slipped in the mud|stepped on a thorn]. {H} heard the cry and stopped. {H} looked at {far}. {He} looked at {F}.",
    "\"Give me your hand, {F},\" said {H}. \"But you will lose the {o}, {H}!\" said {F}. \"A friend is more than a {o},\" said {H}. So {H} and {F} walked on slowly.",
    "At {far} everyone [clapped|cheered]. \"The prize goes to the biggest heart,\" said {E}, and gave {H} the {o}. The {o} {look}. " + JOY,
    HOME_AGAIN,
)

plot(
    "a surprise gift",
    "The best gifts are made with your own hands.|Giving makes two people happy.",
    "Tomorrow was the birthday of {E}. {H} wanted to give {E} something special. But {H} had no money. " + SADNESS,
    "So {H} went to {spot} to think. There sat {af} called {F}. \"You look worried, {H},\" said {F}. \"I have no gift for {E},\" said {H}. \"A gift can be made,\" said [{F}|the {f}].",
    "\"I know it!\" said {H}. \"I will make {ao}!\" {F} helped {H}, and they worked on the {o} until [late in the evening|the moon came up].",
    "In the morning {H} knocked at the door. \"Happy birthday, {E}!\" said {H}. \"Did you make this {o} yourself, {H}?\" asked {E}. \"Yes, with {F},\" said {H}.",
    "The {o} {look}. \"[I have never had a finer {o}|This is the best {o} of all],\" said {E}. " + JOY,
    HOME_AGAIN,
)

plot(
    "a star",
    "Wishes come true when you help them a little.|The smallest light can show the way.",
    "One night {H} could not sleep and looked out of the window. A star [winked|blinked] at {him} and fell down from the sky! \"Poor star,\" said {H}. {He} took {his} {o} and ran out.",
    "The star lay {nook}. The star was [no bigger than an apple|as small as a nut]. \"I am lost,\" said the star. \"[I want to go back to my sisters|The sky is so far away].\"",
    "\"I will help you, little star,\" said {H}. First {H} [climbed a tree|threw the star into the air], but [it was not high enough|the star fell down again]. " + SADNESS,
    "Then {H} had an idea. \"Look at my {o}, little star,\" said {H}. The {o} {look}, and the star began to shine again. It rose up and up, over {spot}, back into the sky.",
    JOY + " And every night the star [winks|blinks] at {H}. [\"Good night, little star,\" says {H}.|]",
    ends=ENDS_ALONE,
)

# Things named within one plot: slot, its word, and slots that go with that word.
LINKED = [
    [{"b": w} for w in ("raft", "bridge", "cart", "tower", "hut", "swing")],
    [{"x": w} for w in ("the dark", "thunder", "deep water", "fog", "the wind")],
    [{"l": w} for w in ("kitten", "lamb", "puppy", "chick", "pony")],
    [
        {"obst": "a deep stream", "fix": "{H} found a fallen log, and they walked across the stream."},
        {"obst": "a tall fence", "fix": "{H} found a hole, and they crawled under the fence."},
        {"obst": "a sleeping dog", "fix": "{H} and {F} tiptoed around the dog, as quiet as snow."},
    ],
    [
        {"r": "make a ship", "do": "The table became a ship. {H} was the captain and {F} kept watch."},
        {"r": "build a cave", "do": "The blankets became a cave. {H} and {F} were two bears in winter."},
        {"r": "have a concert", "do": "{H} sang and {F} beat the biggest pot."},
        {"r": "bake a cake", "do": "There was flour on {his} nose and flour on the floor."},
    ],
    [
        {"s": "sunflower", "s.do": "{H} gave a seed of the sunflower to every child."},
        {"s": "pumpkin", "s.do": "{H} and {F} made a big pot of pumpkin soup."},
        {"s": "strawberry", "s.do": "{H} gave half of the strawberry to {F}."},
    ],
    [
        {"riddle": "I run all day, but I have no legs.", "answer": "a river", "clue": "heard the water of a river."},
        {"riddle": "I follow you all day, but at night I am gone.", "answer": "my shadow", "clue": "looked down and saw {his} shadow."},
        {"riddle": "I have teeth, but I cannot bite.", "answer": "a comb", "clue": "ran a hand through {his} hair."},
        {"riddle": "The more you take away, the bigger I grow.", "answer": "a hole", "clue": "saw a little hole in the ground."},
        {"riddle": "I cry without eyes and fly without wings.", "answer": "a cloud", "clue": "felt a drop of rain on {his} nose."},
    ],
]

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{([A-Za-z.]+)\}")
_PRONOUNS = {"girl": ("she", "her", "her"), "boy": ("he", "him", "his")}


def article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


class Story:
    """One story: its cast, drawn from `rng`, and the slots that name it."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        child = rng.choice(sorted(_PRONOUNS))
        animal = rng.choice(ANIMALS)
        noun, use, kinds, look = rng.choice(THINGS)
        preposition, home, spots, fars, ways, nooks = rng.choice(SETTINGS)
        self.slots = {
            "H": rng.choice(GIRLS if child == "girl" else BOYS), "child": child, "trait": rng.choice(TRAITS),
            "F": rng.choice(ANIMAL_NAMES), "f": animal, "af": article(animal), "E": rng.choice(ELDERS),
            "o": noun, "ao": article(f"{rng.choice(kinds.split())} {noun}"), "use": use, "look": look,
            "in": preposition, "In": preposition.capitalize(), "home": home, "spot": rng.choice(spots),
            "far": rng.choice(fars), "way": rng.choice(ways), "nook": rng.choice(nooks),
        }  # fmt: skip
        for form, word in zip(("he", "him", "his"), _PRONOUNS[child]):
            self.slots |= {form: word, form.capitalize(): word.capitalize()}
        for choices in LINKED:
            self.slots |= rng.choice(choices)

    def tell(self, template: str) -> str:
        """Draws the alternatives of `template` and fills its slots, until neither is left."""
        while True:
            found = _ALTERNATIVES.search(template)
            if found:
                choice = self.rng.choice(found.group(1).split("|"))
                template = template[: found.start()] + choice + template[found.end() :]
                continue
            found = _SLOT.search(template)
            if not found:
                return template
            # Food is drawn anew each time.
            word = self.rng.choice(FOODS.split("|")) if found.group(1) == "food" else self.slots[found.group(1)]
            template = template[: found.start()] + word + template[found.end() :]


def story(rng: random.Random) -> str:
    """One story: two or three paragraphs, each on its own line."""
    s = Story(rng)
    beats, moral, ends = PLOTS[rng.choice(sorted(PLOTS))]
    parts = [s.tell(f"[{OPENING}]{LIKES}")] + [s.tell(f"[{beat}]") for beat in beats]
    closing = s.tell(f"[{ends}]")
    if rng.random() < 0.4:
        closing = f"{rng.choice(moral.split('|'))} {closing}"
    parts.append(closing)
    # A paragraph does not begin with a name.
    names = {s.slots[key] for key in "HFE"}
    places = [i for i in range(2, len(parts) - 1) if parts[i].split(" ")[0] not in names]
    cuts = sorted(rng.sample(places, k=min(len(places), rng.randint(1, 2))))
    paragraphs = [" ".join(parts[a:b]) for a, b in zip([0] + cuts, cuts + [len(parts)])]
    text = "\n".join(paragraphs)
    return re.sub(r" +", " ", text).replace(" \n", "\n").replace("\n ", "\n").strip()


def corpus(seed: int, count: int) -> list[str]:
    """`count` different stories, the same ones for the same seed."""
    rng = random.Random(seed)
    seen: dict[str, None] = {}
    while len(seen) < count:
        seen.setdefault(story(rng))
    return list(seen)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--count", type=int, default=3)
    given = arguments.parse_args()
    print("\n\n".join(corpus(given.seed, given.count)))
