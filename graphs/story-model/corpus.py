# SPDX-License-Identifier: MIT OR Apache-2.0
"""A grammar that tells little stories. All of its text was written for this project.

A template is plain text with two marks: `[a|b|c]` stands for one of its
alternatives (they nest, and may be empty), and `{slot}` for a word of the cast.
The cast of a story (who, where, with what) is drawn once and kept, so names,
pronouns and things agree from the first sentence to the last.

Slots of a person: `{H}` the hero's name, `{h.he}`, `{h.him}`, `{h.his}` and their
capital forms `{h.He}`, `{h.His}`; likewise `f` (the friend) and `e` (the elder).
`{h.is}` is what the hero is ("girl", "fox"). Slots of the thing: `{o}` "red kite",
`{ao}` "a red kite", `{o.use}` "fly it". Slots of the place: `{in}` a `{home}`, `{spot}`,
`{far}`, `{way}`, `{nook}`.

Run as a program it prints stories: `python corpus.py --seed 1 --count 3`.
"""

import argparse
import random
import re

GIRLS = "Mia Ada Lena Nora Ivy Rosa Tilda Wren Edda Juna Clara Hazel Maren Suri Olga Pia Kaya Ines".split()
BOYS = "Tom Ben Finn Otto Leo Jonas Milo Hugo Emil Kofi Arlo Timo Rafi Nils Bruno Sami Theo Ravi".split()
ANIMAL_NAMES = "Pip Nib Bramble Dot Tuft Moss Pepper Hopper Thistle Button Clover Acorn Twig Puddle Fern Biscuit".split()
ANIMALS = "fox hedgehog rabbit mouse squirrel badger otter bear frog duckling goat owl mole beaver".split()
TRADES = "fisher shepherd farm drummer neighbour miller".split()
TRAITS = "kind curious cheerful quiet brave clever shy busy gentle merry stubborn dreamy".split()

ELDERS = [
    ("Grandmother", "she"), ("Grandfather", "he"), ("Aunt Rosalind", "she"), ("Uncle Bertil", "he"),
    ("Old Marta", "she"), ("Old Tobias", "he"), ("the baker", "he"), ("the miller", "he"),
    ("the lighthouse keeper", "she"), ("the clockmaker", "she"), ("the ferryman", "he"), ("the gardener", "she"),
]

# A thing: noun, what one does with it, its colours or kinds, its sound or look when used.
THINGS = [
    ("kite", "fly it", "red blue yellow striped paper", "danced high in the wind"),
    ("boat", "sail it", "little wooden white blue", "rocked gently on the water"),
    ("drum", "play it", "round red tin small", "went boom, boom, boom"),
    ("lantern", "light it", "brass green paper old", "glowed like a small moon"),
    ("scarf", "wear it", "long woolly striped red", "was soft and warm"),
    ("bell", "ring it", "silver copper tiny old", "rang clear and bright"),
    ("ball", "roll it", "green yellow shiny spotted", "bounced up and down"),
    ("whistle", "blow it", "wooden tin silver little", "sang like a bird"),
    ("wagon", "pull it", "red wooden little blue", "rattled over the stones"),
    ("hat", "wear it", "straw tall green feathered", "sat proudly above two ears"),
    ("book", "read it", "thick blue old little", "smelled of paper and faraway places"),
    ("spinning top", "spin it", "striped golden wooden", "hummed a low song"),
    ("puppet", "play with it", "wooden funny little woolly", "bowed and waved"),
    ("blanket", "carry it", "soft patched blue warm", "was as cosy as a nest"),
    ("flute", "play it", "bamboo silver thin", "made a sweet sound"),
    ("music box", "wind it up", "tiny golden painted", "played a slow tune"),
]

# A setting: preposition, home, spot (near), far (a place to reach), way, nook (where things hide).
SETTINGS = [
    ("in", "village by the sea", ("the harbour", "the beach", "the pier"), ("the lighthouse", "the white cliffs", "the island of gulls"),
     ("the sandy path", "the shore road"), ("behind a heap of nets", "between two rocks", "under an old rowing boat")),
    ("in", "house at the edge of the forest", ("the clearing", "the old oak", "the brook"), ("the heart of the forest", "the hollow tree", "the fern valley"),
     ("the mossy path", "the winding track"), ("under a fern", "behind a fallen log", "in a heap of leaves")),
    ("on", "farm among green hills", ("the barn", "the meadow", "the orchard"), ("the windmill", "the top of the hill", "the market"),
     ("the dusty lane", "the cart road"), ("behind the hay", "under the apple tree", "beside the water trough")),
    ("in", "small town with crooked roofs", ("the market square", "the fountain", "the park"), ("the clock tower", "the old bridge", "the toy shop"),
     ("the cobbled street", "the narrow lane"), ("behind a flower pot", "under a bench", "on a low wall")),
    ("in", "valley between two mountains", ("the lake", "the goat meadow", "the stone bridge"), ("the snowy peak", "the blue cave", "the high pass"),
     ("the steep path", "the stony trail"), ("behind a boulder", "beside the waterfall", "in a crack of the rock")),
    ("in", "cottage beside a wide river", ("the landing stage", "the willow", "the reeds"), ("the far bank", "the water mill", "the bend of the river"),
     ("the river path", "the muddy track"), ("among the reeds", "under a willow root", "behind a stack of baskets")),
]

FOODS = "bread|warm soup|apple cake|honey buns|plums|berry pie|pancakes|cheese|pears|oat biscuits"
WEATHER = {
    "fine": "The sun was [warm|bright|shining] and the sky was [blue|clear|full of swallows].|It was a [soft|fresh|golden] [morning|day], and [a light wind blew|the birds were singing|dew lay on the grass].|Small white clouds [drifted|sailed] over the roofs.",
    "rough": "Dark clouds [rolled in|gathered overhead] and the wind [began to howl|grew strong].|All at once [the rain came down|thunder rumbled|a cold mist rose].|The sky turned grey, and [big drops began to fall|the wind pulled at the trees].",
}

OPENING = (
    "[Once upon a time|Once upon a time|Once upon a time|Long ago|Once|Not so long ago], {in} a {home}, [there lived|lived] [a {trait} {h.is} called {H}|a {h.is} named {H}]."
    "|[There was once|Once upon a time there was] a {trait} {h.is} called {H}, who lived {in} a {home}."
    "|{H} was a {trait} {h.is}. {h.He} lived {in} a {home}."
    "|{In} a {home} lived {H}, a {trait} {h.is}."
    "|One [morning|day] a {trait} {h.is} called {H} [woke up early|looked out of the window] {in} a {home}."
)

LIKES = (
    "[ {h.He} [loved|liked] [to sing|to climb|to count the stars|long walks|old tales|to ask questions|the smell of {food}|to watch the clouds].| {h.He} had [bright eyes and quick feet|a loud laugh|a warm heart|many ideas|a pocket full of string].|||]"
)

FRIEND_INTRO = (
    "{F} the {f.is}|a {f.is} called {F}|{h.his} friend {F}, the {f.is}"
)

TREASURE = (
    "{h.His} [dearest|favourite|most precious] thing was {ao}. [It had been a gift from {E}.|{E} had made it for {h.him}.|{h.He} had found it [last summer|on {h.his} birthday].|] [When {h.he} used it, it {o.look}.|It {o.look}.|]"
    "|{h.He} had {ao} [and took it everywhere|that {h.he} loved very much]. [It {o.look}.|{E} had given it to {h.him}.|]"
    "|[On {h.his} birthday|One spring] {E} gave {h.him} {ao}. [\"Take good care of it,\" said {E}.|It {o.look}.|{H} thought it was the best gift in the world.]"
)

SADNESS = "[{h.His} eyes filled with tears.|{H} felt [very sad|a lump in {h.his} throat|small and alone].|{H} sat down and sighed.|A tear rolled down {h.his} nose.]"
JOY = "[{H} [laughed|clapped|cheered] [with joy|out loud|for joy].|{H} was so happy that {h.he} [danced|hummed a song|could hardly speak].|{H} smiled from ear to ear.|{h.His} heart felt light.]"
THANKS = "[\"Thank you,\" said {H}. \"[You are a true friend|I will not forget this|You are very kind].\"|{H} thanked {f.him} [again and again|with all {h.his} heart|with a big hug].|\"[How can I thank you?|Oh, thank you!]\" [cried|said] {H}. \"[Come and eat with us|Be my friend|Play with me tomorrow],\" {h.he} added.]"
HOME_AGAIN = "[[In the evening|When the sun went down|At dusk] they [walked|went] home [together|side by side|along {way}].|That [night|evening] {H} [slept well|fell asleep with a smile|told {E} the whole story].|At home {E} was waiting with {food}.|Then they [ate|shared] {food} [together|until nothing was left|and talked about the day].]"

ENDS = "[And [from that day on|ever after] {H} and {F} were [the best of friends|good friends|always together].|And they lived happily ever after.|And that was the [best|happiest] day of the [year|summer].|And if you pass by the {home}, you may [hear them laughing|see them there] still.|The end.||]"

PLOTS = {}


def plot(name, moral, *beats):
    """Registers a plot: its beats in order, and the morals that may close it."""
    PLOTS[name] = (beats, moral)


plot(
    "lost and found",
    "What is lost can be found when friends look together.|Two pairs of eyes see more than one.|A good friend never says, \"That is not my worry.\"",
    TREASURE,
    "One [windy day|morning|afternoon] {h.he} took the {o} to {spot} to {o.use}. [But when it was time to go home, the {o} was gone.|{h.He} put it down for a moment, and when {h.he} turned around, it was gone.|On the way home {h.he} saw that {h.his} hands were empty. The {o} was lost!]",
    SADNESS + " [\"Where can it be?\" {h.he} [asked|wondered].|\"I must find my {o},\" {h.he} said.|]",
    "[{H} looked [everywhere|high and low]. {h.He} looked [behind the house|under the steps|in the tall grass], but the {o} was not there.|{H} ran back along {way}, but found [only a feather|only an old shoe|nothing at all].|First {h.he} searched {spot}. Then {h.he} searched the whole of {way}. Nothing!]",
    "Then {f.intro} came by. \"[Why are you so sad?|What is the matter?|What are you looking for?]\" asked {F}. \"I have lost my {o},\" said {H}. \"[Do not worry|Dry your tears|Cheer up],\" said {F}. \"[We will look for it together|I will help you|Four eyes see more than two].\"",
    "[They looked until [the shadows grew long|their feet hurt]. At last|They asked [a snail|an old crow|a beetle|a grey cat], who pointed the way. And there,|{F} [sniffed the air|climbed up high|listened carefully]. Then] {F} [called|cried], \"[Look!|Here!|Come quickly!]\" The {o} was {nook}[, a little wet but not broken|, safe and sound|].",
    JOY + " " + THANKS,
    HOME_AGAIN,
)

plot(
    "making a friend",
    "Sometimes a friend is only one hello away.|A kind word opens every door.|It takes courage to say hello.",
    "But {h.he} had no one to play with. [Every day {h.he} sat alone at {spot}.|{h.He} [talked to the clouds|told {h.his} secrets to the wind], and that was [lonely|not the same as a friend].]",
    "[One day|One morning] {H} saw a new {f.is} at {spot}. [The {f.is}|It was {F}, who] [looked lonely too|was drawing in the dust|was humming a song|sat all alone]. {H} wanted to say hello, but {h.he} was [too shy|afraid]. [\"What if {f.he} does not like me?\" {h.he} thought.|{h.His} heart beat fast.]",
    "[{H} asked {E} what to do. \"[Share something you love|Just smile and say your name|A friend is a stranger you have not met yet],\" said {E}.|At home {H} told {E} about it. \"Begin with a small hello,\" said {E}. \"[The rest comes by itself|That is how all friends begin].\"]",
    "[The next day|So the next morning] {H} took {h.his} {o} and went to {spot}. \"Hello,\" {h.he} said [in a small voice|softly|bravely]. \"I am {H}. Would you like to {o.use} with me?\"",
    "The {f.is} looked up and [smiled|grinned]. \"[Yes, please!|I would love to!|Oh yes!]\" said the {f.is}. \"My name is {F}. I was [hoping someone would ask|afraid to speak first too].\"",
    "[They played all [day|afternoon]. The {o} {o.look}.|First they played with the {o}, and then they [chased each other|built a den|raced along {way}|told jokes].|They took turns with the {o}, and it {o.look}.] " + JOY,
    HOME_AGAIN,
)

plot(
    "a promise",
    "A promise is a promise.|Who keeps a small promise can be trusted with a big one.|A promise kept is worth more than gold.",
    "One day {E} had to go away [for a week|until Sunday|for three days]. \"Will you [water my roses|feed my hens|look after my {o}|wind my clock] while I am gone?\" asked {E}. \"I promise,\" said {H}.",
    "[On the first day {h.he} did it gladly. On the second day {h.he} did it too.|At first it was easy. {H} came every morning and did all the work.] But [on the third day|then one day] {F} [came by|knocked at the door]. \"[Come to {spot}!|Let us go to {far}!]\" said {F}. \"[There is a fair today|Everyone is going|The water is warm].\"",
    "{H} [wanted to go very much|looked along {way} and sighed|thought for a long time]. [\"Nobody will know,\" whispered a little voice inside {h.him}.|It sounded like such fun!] But {h.he} remembered [{h.his} promise|{E}]. \"I cannot come yet,\" {h.he} said. \"I gave my word.\"",
    "{F} [was quiet for a moment|scratched {f.his} head]. Then {f.he} said, \"[Then I will help you|Two can do it faster|Let us do it together, and go afterwards].\" [So they worked side by side|They sang while they worked], and soon everything was done.",
    "[There was still time to go to {spot}.|And they still reached {spot} before the sun went down.] " + JOY,
    "When {E} came back, {e.he} [looked around and smiled|was very pleased]. \"You kept your word,\" said {E}, and {e.he} gave {H} {ao}. [{H} shared it with {F}.|\"This is for you and your friend.\"|It {o.look}.]",
)

plot(
    "building something",
    "Little by little, great things are built.|Try, and try again.|Many hands make light work.",
    "{h.He} had a [great wish|big dream|wonderful plan]. {h.He} wanted to build {b}.",
    "{H} [gathered|collected|carried] [sticks and string|old boards and nails|branches and rope] and began to work. {h.He} [hammered|tied|pushed|sawed] all [morning|day]. But [in the evening|when {h.he} stepped back] the {b.n} [fell over with a crash|came apart|leaned to one side and broke]. " + SADNESS,
    "\"[I will never do it|It is no use|I am too small for this],\" said {H}. Then {f.intro} came along {way}. \"[What are you making?|What was that noise?]\" asked {F}. \"[It was going to be a {b.n}|A {b.n}, but it fell down],\" said {H}.",
    "{F} [walked around it twice|looked at it carefully]. \"[The bottom must be wider|The knots are too loose|It needs a strong middle],\" said {f.he}. \"[Let us try again|I can hold it while you tie|I know where there is better wood].\"",
    "So they worked together. {H} [held|tied|measured] and {F} [pulled|lifted|hammered]. [It broke once more, but they only laughed and began again.|It took [two|three|four] days.|{E} brought them {food}.]",
    "At last the {b.n} was [ready|finished]. It [stood straight and strong|did not even wobble|was better than {h.his} dream]. " + JOY + " \"[We did it!|Look what we made!]\" [cried|said] {F}.",
    HOME_AGAIN,
)

plot(
    "a fear overcome",
    "Being brave means going on although you are afraid.|The dark is only the day with its eyes closed.|Fear grows small when you look at it.",
    "But {H} was afraid of {x.n}. [When others laughed and played, {h.he} stayed behind.|{h.He} told nobody about it.|Every time, {h.his} knees began to shake.]",
    "One [evening|day] {F} did not come home. [\"{F} went to {far},\" said {E}. \"{f.He} should be back by now.\"|\"Has anyone seen {F}?\" asked {E}. \"{f.He} went to {far} this morning.\"] {rough}",
    "{H} [swallowed hard|looked out of the door|felt {h.his} heart beat]. {h.He} was afraid of {x.n}. But {h.he} thought of {F}, all alone. [\"I will go,\" {h.he} said.|\"Someone must go, and I am quick,\" {h.he} said.] {E} gave {h.him} {ao}. \"[Let it keep you company|It will help you],\" said {E}.",
    "So {H} went along {way}. [Every step was hard.|{h.He} sang a little song to be less afraid.|{h.He} counted {h.his} steps: one, two, three.] [\"It is only {x.n},\" {h.he} told {h.himself}. \"It cannot eat me.\"|Something moved! But it was only [a leaf|an owl|a sleepy toad].]",
    "At last {h.he} heard a [small|weak] voice. \"Help!\" It was {F}, {nook}. {f.He} had [hurt {f.his} foot|lost the way|slipped and fallen]. \"[You came!|I knew you would come!]\" said {F}. \"But you are afraid of {x.n}!\" \"[I still am a little|I forgot to be|Not as much as I was],\" said {H}.",
    "{H} took {F} by the hand, and with the {o} they found the way home. [Everyone cheered.|{E} hugged them both.] " + HOME_AGAIN,
)

plot(
    "sharing",
    "Shared joy is double joy.|The more you share, the more you have.|Half of something is enough when you have a friend.",
    TREASURE,
    "{h.He} did not want to share it. \"It is mine,\" {h.he} said, when {F} the {f.is} asked to {o.use}. \"[Only mine|Get your own|You might break it].\" {F} [went away with a sad face|said nothing and walked away|hung {f.his} head].",
    "So {H} played alone at {spot}. The {o} {o.look}. But [it was not as much fun as before|there was nobody to laugh with|soon {h.he} was bored]. " + SADNESS,
    "[At noon|Later] {H} was hungry, but {h.he} had forgotten {h.his} lunch. {F} sat [under a tree|on a stone|by the path] with {food}. {F} saw {H} and [did not think long|smiled]. \"[Come, there is enough for two,|Would you like half?|Sit down and eat with me,]\" said {F}.",
    "{H} [turned red|felt ashamed|looked at {h.his} feet]. \"You share with me, and I did not share with you,\" {h.he} said. \"I am sorry.\" [\"That is all right,\" said {F}.|\"You can always start now,\" said {F}.]",
    "Then {H} held out the {o}. \"Let us {o.use} together,\" {h.he} said. [And they took turns until evening.|They played until the stars came out.] Now it was [twice|ten times] as much fun. " + JOY,
    HOME_AGAIN,
)

plot(
    "a mistake mended",
    "Everyone makes mistakes. Good hearts mend them.|The truth is hard to say, but light to carry.|It is never too late to say sorry.",
    "{E} had {ao} [that was very old|that stood on the shelf|and was very proud of it]. [It {o.look}.|\"Please do not touch it,\" {e.he} always said.] But one day, when nobody was looking, {H} [took it down|wanted to {o.use} just once].",
    "[Crash!|Oh no!|Then it happened.] The {o} [slipped out of {h.his} hands|fell to the floor|hit the wall] and broke. [{H} grew cold all over.|{H} stood very still.] [{h.He} hid the pieces {nook}.|{h.He} pushed the pieces under the bed and ran to {spot}.]",
    "At supper {H} could not eat. [\"Are you ill?\" asked {E}.|\"You are so quiet today,\" said {E}.] {H} shook {h.his} head. [That night {h.he} could not sleep.|The secret felt as heavy as a stone.]",
    "In the morning {h.he} [met|told] {F}[ and told {f.him} everything|]. \"[Tell the truth|Say it quickly, then it is over|You should say sorry],\" said {F}. \"[I will come with you|And then we will mend it].\"",
    "So {H} went to {E}. \"I broke your {o},\" {h.he} said[ with a small voice|]. \"I am very sorry.\" {E} was silent for a while. Then {e.he} [sighed and smiled|put an arm around {h.him}]. \"[I am sad about the {o}, but I am glad you told me|Things can be mended, and so can this|Thank you for telling the truth],\" said {E}.",
    "[They found some glue|They fetched paint and glue], and {H}, {F} and {E} mended the {o} together. [It had a crack now, but it was still beautiful.|You could hardly see where it was broken.|It looked a little different, but {E} liked it even more.] " + JOY,
)

plot(
    "a journey",
    "The longest way begins with one small step.|The way is shorter with a friend.|You must go far to see how good it is at home.",
    "{h.He} had always wanted to see {far}. [\"What is it like there?\" {h.he} asked everyone.|People said that [you could touch the clouds there|the sky was bigger there|a bell rang there all by itself].] One morning {h.he} packed {food} and {ao} and set off.",
    "{fine} {H} walked along {way}. [Soon {h.he} met {F} the {f.is}.|At the first bend sat {F} the {f.is}.] \"Where are you going?\" asked {F}. \"To {far},\" said {H}. \"[May I come too?|I have always wanted to go there|That is a long way to go alone],\" said {F}. [So they went on together.|\"Then come with me,\" said {H}.]",
    "[In the afternoon|After a while] they came to {obst}. \"[What now?|Shall we turn back?]\" asked {F}. {H} thought hard. {obst.fix}",
    "Then {rough.l} They [hid under a tree|crept into a hollow] and waited. {H} took out the {o}, and it {o.look}. [That made them feel better.|They told stories until it was over.|They ate {food} and were not afraid.]",
    "[In the evening|The next day] they reached {far}. [It was even more beautiful than they had thought.|They stood still and looked and looked.|From there they could see the whole world.] " + JOY + " \"[I can see our home from here|Look how small our home is|Now I know what it is like],\" said {H}.",
    HOME_AGAIN,
)

plot(
    "a riddle",
    "Think first, and then think again.|A sharp mind is better than a strong arm.|The answer is often right in front of you.",
    "One day {h.he} wanted to go to {far}, but on {way} sat {g}. \"Nobody passes,\" said the {g.n}, \"who cannot answer my riddle.\"",
    "\"Ask me,\" said {H}[ bravely|]. The {g.n} [blinked|cleared its throat|smiled] and said: \"{riddle} What am I?\"",
    "{H} thought and thought. \"Is it [a stone|a bird|a cloud|the moon|a fish]?\" {h.he} asked. \"No,\" said the {g.n}. \"[You have one more try|Think again|Once more].\" " + SADNESS,
    "Just then {F} the {f.is} came along. [\"Look around you,\" whispered {F}.|\"Do not hurry,\" said {F}. \"Say the riddle again slowly.\"|\"Two heads are better than one,\" said {F}.] {H} {riddle.clue}",
    "\"I know it!\" cried {H}. \"You are {riddle.a}!\" The {g.n} [laughed|bowed|clapped]. \"That is right,\" it said. \"[You are clever|You have earned your way|Nobody has known it for a hundred years].\" And it [stepped aside|let them pass][ and gave them {ao}|].",
    "So {H} and {F} went on to {far}. " + JOY + " [On the way home they made up riddles of their own.|All the way they asked each other riddles.] " + HOME_AGAIN,
)

plot(
    "a rainy day",
    "Every rain has an end, and some have a rainbow.|There is no bad weather, only a good idea that is missing.|You can carry the sun inside you.",
    "{h.He} wanted to go to {spot} and take {h.his} {o}. But it rained. It rained [all morning|and rained|cats and dogs]. [Drops ran down the window.|The path turned to mud.] \"[What a bad day|I hate the rain|Now everything is spoiled],\" said {H}.",
    "There was a knock at the door. It was {F} the {f.is}, wet from head to toe. \"[Hello!|Good morning!]\" said {F}. \"[Is it not a lovely day?|I jumped into every puddle!]\" \"[Lovely? It is raining!|I wanted to {o.use} outside],\" said {H}.",
    "\"Then let us {r},\" said {F}. {r.do}",
    "{E} came in to see what the noise was. {e.He} did not [scold|frown]. {e.He} [laughed and joined in|brought {food}|asked, \"May I come too?\"]. The {o} was part of the game, and it {o.look}. " + JOY,
    "[After a while|At last] {H} looked out of the window. [The rain had stopped, and nobody had noticed!|A rainbow stood over {spot}.] \"Oh,\" said {H}, \"[what a pity|I liked the rain|I hope it rains tomorrow].\" {F} [laughed and laughed|grinned].",
)

plot(
    "the little lost one",
    "No one is too small to help.|Small kindness is never wasted.|Help comes back to those who give it.",
    "One day, at {spot}, {h.he} heard a small sound. [Peep, peep!|Mew, mew!|Squeak, squeak!] {nook.Cap} sat a {l.n}. It was [cold|wet|hungry] and all alone. \"[Where is your mother?|Are you lost?]\" asked {H}. The {l.n} only looked at {h.him} with round eyes.",
    "{H} wrapped it in [{h.his} scarf|a soft leaf|{h.his} coat] and gave it [some water|a bit of bread]. [\"I will take you home,\" {h.he} said.|\"Do not be afraid,\" {h.he} said. \"We will find her.\"] But where was its home?",
    "{H} asked {F} the {f.is}. \"[I saw one like that near {far}|Its mother called all night by {far}],\" said {F}. \"[I will show you|Come, I know the way].\" So they went along {way}, {H} carrying the {l.n} and {F} carrying the {o}.",
    "{rough} The {l.n} began to cry. {H} [sang to it|held it close], and {F} tried to {o.use}. It {o.look}, and the {l.n} grew quiet. [It even fell asleep.|It listened with its head on one side.]",
    "Near {far} they heard a call. [There was the mother!|It was the mother of the {l.n}!] She had looked [all day|everywhere]. The {l.n} [jumped up|woke up] and ran to her. \"[Thank you for bringing my little one|You have kind hearts],\" said the mother. " + JOY,
    HOME_AGAIN,
)

plot(
    "a garden",
    "Good things need time.|Who plants with love will pick with joy.|Be patient: roots grow where no one can see.",
    "One spring {E} gave {h.him} a [tiny seed|handful of seeds|small brown seed]. \"Plant it and wait,\" said {E}. [\"It will be a surprise.\"|\"Waiting is the hard part.\"] {H} dug a hole near {spot} and put it in. Then {h.he} sat down to wait.",
    "Nothing happened. [The next day|After a week] there was still nothing. [\"Grow!\" said {H}. But it did not grow.|\"Is it asleep?\" {h.he} asked {E}.] {F} the {f.is} came to look. \"[Seeds cannot be hurried|It grows in the dark first|It needs water, and you need patience],\" said {F}.",
    "So every day {H} brought water, and {F} pulled the weeds. [While they waited, they played with {ao}.|To pass the time they told stories.|When it was dry, they carried water in {h.his} hat.] {rough} {H} ran out and [put a basket over|made a little roof over] the place where the seed was.",
    "Then, one morning, there was a green tip! It grew [and grew|day by day]. By summer it was {s}. " + JOY,
    "\"[What shall we do with it?|And what now?]\" asked {F}. {H} did not think long. {s.do} [{E} was very proud.|Everyone had a share.] \"[You waited well|You have learned to wait],\" said {E}.",
)

plot(
    "a race",
    "It is better to win a friend than a race.|Winning is nice, but helping is better.|Slow and kind goes far.",
    "Every [summer|autumn] there was a race from {spot} to {far}. The prize was {ao}. {H} wanted to win it [more than anything|with all {h.his} heart]. {h.He} [practised every day|ran along {way} every morning], until {h.he} was very fast.",
    "On the day of the race everyone came. {fine} \"[Ready, steady, go!|One, two, three!]\" called {E}, and off they ran. {H} was soon in front. {h.He} could already see {far}. [Only {F} the {f.is} was close behind.|Behind {h.him} came {F} the {f.is}.]",
    "Then {H} heard a cry. {F} had [stumbled over a root|slipped in the mud|stepped on a thorn] and lay on the ground. {H} [slowed down|stopped]. {h.He} looked at {far}. {h.He} looked at {F}. [It was not far to the prize.|The others were coming nearer.]",
    "{H} turned around. \"[Give me your hand|Lean on me|Come, I will help you],\" {h.he} said. \"[But you will lose!|What about the prize?]\" said {F}. \"[There will be other races|A friend is more than a prize],\" said {H}. And so they walked on slowly, arm in arm.",
    "They were the last ones to reach {far}. But everyone [clapped and cheered|was waiting for them]. \"[The prize goes to the biggest heart|Today the last shall be the first],\" said {E}, and gave {H} the {o}. " + JOY + " [The {o} {o.look}.|{h.He} let {F} {o.use} first.]",
)

plot(
    "a surprise gift",
    "The best gifts are made with your own hands.|A gift is as big as the love in it.|Giving makes two people happy.",
    "Tomorrow was the birthday of {E}. {H} wanted to give {e.him} something special. But {h.he} had no money, not even [a penny|one small coin]. [\"What can I give?\" {h.he} thought.|{h.He} looked into the shop window and saw {ao}, but it cost too much.] " + SADNESS,
    "{H} went to {spot} to think. There sat {F} the {f.is}. \"[You look worried,|What are you thinking about?]\" said {F}. {H} told {f.him} everything. \"[You do not have to buy a gift|A gift can be made],\" said {F}. \"[What does {E} like best?|What makes {E} happy?]\"",
    "{H} thought about it. \"{E} likes {y},\" {h.he} said. \"[That is it!|Then I know what to do!]\" {y.do} {F} helped, and they worked until [late in the evening|the moon came up].",
    "In the morning {H} knocked at the door. [\"Happy birthday!\" called {H} and {F}.|\"Close your eyes,\" said {H}. \"And now open them!\"] {E} looked, and {e.his} eyes [shone|grew wide]. \"[Is that for me?|Did you make this yourself?]\" asked {E}. \"[I have never had a finer gift|This is the best birthday of my life],\" {e.he} said.",
    JOY + " " + HOME_AGAIN,
)

plot(
    "a star",
    "Wishes come true when you help them a little.|The smallest light can show the way.|Look up: you are never quite alone.",
    "[One night|One clear night] {h.he} could not sleep and looked out of the window. A [small|tiny] star [winked|blinked] at {h.him}, slipped, and fell! It fell [down and down|like a spark], somewhere near {far}. \"[Poor star|It must be frightened],\" said {H}. {h.He} put on {h.his} shoes and ran out.",
    "On {way} {h.he} met {F} the {f.is}. \"Did you see it too?\" asked {F}. \"[A star fell down!|It was as bright as a lamp!]\" So they went together. [It was dark, but they held hands.|The night was full of [soft|strange] sounds.]",
    "They found the star {nook}. It was [no bigger than an apple|as small as a nut], and it [shivered|hardly glowed]. \"I am lost,\" said the star. \"[I want to go back to my sisters|The sky is so far away|How can I get home?].\"",
    "\"We will help you,\" said {H}. [First they tried to throw it, but it fell back.|They climbed the highest tree, but it was not high enough.] Then {H} had an idea. {h.He} fetched {h.his} {o}. [\"Hold on tight,\" {h.he} said.|\"This will make you strong,\" {h.he} said.] It {o.look}, and the star began to [shine|glow] again, brighter and brighter.",
    "Then it rose [up and up|slowly into the air], over the trees, over the roofs, until it was [in its place|beside its sisters] again. \"[Thank you!|Good night!]\" it called. " + JOY,
    "And every night since then one small star [winks|blinks] at {H} and {F}. [They always wave back.|\"Good night, little star,\" they say.]",
)

# Things named within one plot and used again later in it: slot, then (phrase, word, follow-up).
LINKED = {
    "b": [(f"a {w}", w, "") for w in ("tree house", "raft", "bridge", "little cart", "bird house", "tower")],
    "x": [(w, w, "") for w in ("the dark", "thunder", "deep water", "the forest at night", "high places")],
    "l": [(w, w, "") for w in ("baby bird", "tiny kitten", "little mouse", "small puppy", "baby squirrel")],
    "g": [("an old raven", "raven", ""), ("a grey owl", "owl", ""), ("a big toad", "toad", ""), ("a sly cat", "cat", ""), ("a tall crane", "crane", "")],
    "obst": [
        ("a deep stream. There was no bridge", "", "[Then {h.he} found a fallen tree, and they walked across it like a bridge.|They threw stones into the water, one after another, until they could hop across.]"),
        ("a tall fence. There was no gate", "", "[{h.He} found a hole under it, just big enough to crawl through.|{F} climbed on {h.his} back, reached the top, and pulled {h.him} up.]"),
        ("a fork in the path. There was no sign", "", "[\"Moss grows on the north side,\" {h.he} said, and so they found the right way.|They asked a snail, who pointed left with one horn.]"),
        ("a sleeping dog that lay across the path", "", "[They tiptoed around it, as quiet as snow.|{F} sang a soft song, so that it went on sleeping while they passed.]"),
    ],
    "r": [
        ("make a ship out of the table", "", "They turned the table over, and it became a ship. [{H} was the captain and {F} kept watch.|They sailed past whales and islands.]"),
        ("build a cave out of blankets", "", "They hung blankets over the chairs, and it became a cave. [Inside they were two bears in winter.|{F} growled, and {H} pretended to be afraid.]"),
        ("have a concert", "", "They took pots and spoons and played as loud as they could. [{H} sang, and {F} beat the biggest pot.|The rain drummed along on the roof.]"),
        ("bake something", "", "They mixed flour and honey and eggs. [Soon the whole house smelled of cake.|There was flour on {h.his} nose and flour on the floor.]"),
    ],
    "s": [
        ("a sunflower taller than {H}", "", "{h.He} saved the seeds and gave one to every child, so that next year there would be a hundred."),
        ("a bush full of berries", "", "They picked the berries and made a pie for everyone."),
        ("an apple tree no higher than a chair", "", "It had only three apples: one for {H}, one for {F} and one for {E}."),
        ("a pumpkin as round as the moon", "", "They made a big pot of soup and called all the neighbours."),
    ],
    "y": [
        ("flowers", "", "They picked flowers of every colour and tied them with a ribbon."),
        ("songs", "", "They made up a song with three verses and practised it again and again."),
        ("pictures", "", "They painted a picture of the {home}, with everyone in it."),
        ("stories", "", "They wrote a story about {E} and made it into a little book."),
    ],
    "riddle": [
        ("I have no legs, but I run all day. I have a mouth, but I never eat.", "a river", "heard water running not far away."),
        ("I follow you all day, but at night I am gone.", "my shadow", "looked down at the ground, and something dark looked back."),
        ("I have teeth, but I cannot bite.", "a comb", "ran a hand through {h.his} hair and stopped."),
        ("I go up and I go down, but I never move.", "the stairs", "remembered the old steps at home."),
        ("The more you take away, the bigger I grow.", "a hole", "saw a little hole in the ground."),
        ("I cry without eyes and fly without wings.", "a cloud", "looked up and felt a drop on {h.his} nose."),
        ("I speak when you speak, but nobody sees me.", "an echo", "heard the last words come back from far away."),
    ],
}

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{([A-Za-z0-9.]+)\}")
_PRONOUNS = {
    "she": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
    "he": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
}


def article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


class Story:
    """One story: its cast, drawn from `rng`, and the slots that name it."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.slots: dict[str, str] = {}
        taken: set[str] = set()
        for key in "hf":
            animal = rng.random() < (0.4 if key == "h" else 0.6)
            pronoun = rng.choice(["she", "he"])
            names = ANIMAL_NAMES if animal else GIRLS if pronoun == "she" else BOYS
            name = rng.choice([n for n in names if n not in taken])
            child = {"she": "girl", "he": "boy"}[pronoun]
            if animal:
                kind = rng.choice([a for a in ANIMALS if a not in taken])
            else:
                kind = child if key == "h" else f"{rng.choice(TRADES)} {child}"
            taken |= {name} | ({kind} if animal else set())
            self._person(key, name, pronoun)
            self.slots[f"{key}.is"] = kind
        name, pronoun = rng.choice(ELDERS)
        self._person("e", name, pronoun)

        noun, use, kinds, look = rng.choice(THINGS)
        thing = f"{rng.choice(kinds.split())} {noun}"
        self.slots |= {"o": thing, "ao": article(thing), "o.use": use, "o.look": look}
        preposition, home, spots, fars, ways, nooks = rng.choice(SETTINGS)
        self.slots |= {"in": preposition, "In": preposition.capitalize(), "home": home, "trait": rng.choice(TRAITS)}
        for slot, choices in (("spot", spots), ("far", fars), ("way", ways), ("nook", nooks)):
            self.slots[slot] = rng.choice(choices)
        self.slots["nook.Cap"] = self.slots["nook"].capitalize()
        for slot, choices in LINKED.items():
            phrase, word, follow = rng.choice(choices)
            self.slots |= {slot: phrase, f"{slot}.n": word, f"{slot}.a": word, f"{slot}.fix": follow, f"{slot}.do": follow, f"{slot}.clue": follow}

    def _person(self, key: str, name: str, pronoun: str) -> None:
        """Fills the slots of one person; a name such as "the baker" stays lower case inside a sentence."""
        self.slots[key.upper()] = name
        for form, word in _PRONOUNS[pronoun].items():
            self.slots[f"{key}.{form}"] = word
            self.slots[f"{key}.{form.capitalize()}"] = word.capitalize()

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
            template = template[: found.start()] + self._slot(found.group(1)) + template[found.end() :]

    def _slot(self, slot: str) -> str:
        """The text of one slot; `food`, the weather and the introduction are drawn anew each time."""
        if slot == "food":
            return self.rng.choice(FOODS.split("|"))
        if slot in WEATHER:
            return f"[{WEATHER[slot]}]"
        if slot == "rough.l":
            return self.rng.choice(["a storm came up.", "it began to rain.", "night fell.", "a cold wind rose."])
        if slot == "f.intro":
            return f"[{FRIEND_INTRO}]"
        return self.slots[slot]


def story(rng: random.Random) -> str:
    """One story: two to four paragraphs, each on its own line."""
    s = Story(rng)
    beats, moral = PLOTS[rng.choice(sorted(PLOTS))]
    parts = [s.tell(f"[{OPENING}]{LIKES}")]
    if rng.random() < 0.25:
        parts[0] += " " + s.tell("{fine}")
    parts += [s.tell(f"[{beat}]") for beat in beats]
    closing = s.tell(ENDS)
    if rng.random() < 0.6:
        closing = f"{rng.choice(moral.split('|'))} {closing}"
    if closing.strip():
        parts.append(closing)
    cuts = sorted(rng.sample(range(1, len(parts)), k=min(len(parts) - 1, rng.randint(1, 3))))
    paragraphs = [" ".join(parts[a:b]) for a, b in zip([0] + cuts, cuts + [len(parts)])]
    text = "\n".join(paragraphs)
    text = re.sub(r" +", " ", text).replace(" \n", "\n").replace("\n ", "\n").strip()
    return re.sub(r"(^|[.!?]\"? |\n)the (?=baker|miller|light|clock|ferry|gardener)", r"\1The ", text)


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
