"""Words that give a language away: the commonest function words of six languages, and letters.

A word may stand in several lists, such as Spanish and French "la"; "a", a word of nearly all, is in
none. Written for this library: articles, pronouns, prepositions, conjunctions, forms of to be, to
have, to do and can, cut at apostrophes ("don", "l").
"""

from __future__ import annotations

_WORDS = {
    "de": """
        aber alle allem allen aller alles als also am an andere anderen auch auf aus bei beim bin
        bis bist da damit dann das dass dein deine dem den denn der des dich die dies diese dieser
        dieses dir doch dort du durch ein eine einem einen einer eines er es etwas euch für gegen
        gibt hab habe haben hat hatte hatten hier hinter ich ihm ihn ihnen ihr ihre ihrem ihren im
        immer in ist ja jede jeden jeder jedes kann kannst kein keine können könnte man mehr mein
        meine mit muss nach nicht nichts noch nur ob oder ohne sehr sein seine seinem seinen sich
        sie sind so soll sondern um und uns unser unter viel vom von vor war waren was weil wenn wer
        werden wie wir wird wo wurde wurden zu zum zur zwischen über
    """,
    "en": """
        about after all also am an and any are as at be because been before being best between both
        but by can cannot could d did do does doesn don down during each even every few find first
        for from get go good had has have he her here his how however i if in into is isn it its
        just let like ll m make many may me might more most much must my no not of often on one only
        or other our out over own re same see she should so some such t take than that the their
        them then there these they this those through to too under until up us use used ve very was
        way we well were what when where which while who why will with would you your
    """,
    "es": """
        al algo alguna algunas algunos algún ante antes aquel aquella aquello aquí así aunque bajo
        bien cada como con contra cual cuales cualquier cuando cuanto cuál cuándo cuánto cómo de
        debe deben debes del desde después donde dos durante dónde el ella ellas ellos en entonces
        entre era eran eres es esa esas ese eso esos esta estar estas este esto estos estoy está
        están estás fue fueron ha había hace hacer hacia han has hasta hay he incluso la las le les
        lo los me mediante mejor menos mi mientras mis misma mismo mismos muchas mucho muchos muy
        más nada ni ninguna ningún no nos nosotros nuestra nuestro nunca o os otra otras otro otros
        para pero poco podemos podría por porque primero puede pueden puedes puedo pues que quien
        quién qué se sea según ser será si sido siempre sin sino sobre solo somos son soy su sus sí
        sólo tal también tan tanto te tener tengo ti tiene tienen tienes toda todas todo todos tras
        tu tus tú un una unas uno unos usted ustedes va vamos van varios vez y ya yo él
    """,
    "fr": """
        afin ai ainsi alors après as assez au aussi autre autres aux avant avec avez avoir avons
        beaucoup bien c car ce ceci cela celle celui ces cet cette ceux chaque chez comme comment
        contre d dans de depuis des deux doit donc dont du elle elles en encore entre est et eu
        faire fait faut fois il ils j je jusqu l la le les leur leurs lors lui ma mais me mes moi
        moins mon même ne ni nos notre nous on ont ou où par parce pas pendant peut peuvent peux
        plus plusieurs pour pourquoi pouvez qu quand que quel quelle quelles qui sa sans se sera ses
        si son sont sous suis sur ta tes toi ton tous tout toute toutes trop très tu un une vers vos
        votre vous y à était été êtes être
    """,
    "it": """
        abbiamo ad ai al alcuni alla alle allo altra altre altri altro anche ancora c che chi ci ciò
        come con cosa così cui da dai dal dall dalla dalle degli dei del dell della delle dello deve
        devi di dopo dove due e ed era erano essere fa fare fra gli ha hai hanno ho i il in io l la
        le lei li lo loro lui ma mai me mentre mi mia mio molti molto ne negli nei nel nell nella
        nelle noi non nostra nostro o ogni oppure per perché però più poi prima puoi può qualche
        quale quando quanto quasi quella quelle quelli quello questa queste questi questo qui sarà
        se sei sempre senza si sia siamo siete solo sono sopra sotto sta stata stato su sua sue sui
        sul sull sulla suo suoi tra troppo tu tua tuo tutta tutte tutti tutto un una uno verso vi
        voi è
    """,
    "pt": """
        ainda algo algum alguma alguns ao aos após aquela aquele aqui as até bem cada com como
        contra da das de dela dele deles depois desde deve devem do dois dos e ela elas ele eles em
        entre era eram essa essas esse esses esta estar estas este estes está estão eu foi foram há
        isso isto já lhe mais mas me mesma mesmo meu meus minha muita muito muitos na nada nas nem
        nenhum no nos nossa nosso num numa nunca não nós o onde os ou outra outras outro outros para
        pela pelas pelo pelos pode podem por porque porquê quais qual quando quanto que quem se seja
        sem sempre ser será seu seus si sido sob sobre sou sua suas são também te tem tenho ter teu
        toda todas todo todos tu tua têm um uma umas uns vai você vocês à às é
    """,
}
_LETTERS = {"de": "äöüß", "en": "", "es": "ñ¿¡", "fr": "çèêëîïôûùœ", "it": "ìò", "pt": "ãõç"}

FUNCTION_WORDS: dict[str, frozenset[str]] = {k: frozenset(v.split()) for k, v in _WORDS.items()}
"""Function words by language (ISO 639-1 code), in lower case."""

LETTERS: dict[str, frozenset[str]] = {k: frozenset(v) for k, v in _LETTERS.items()}
"""Letters and marks that text of a language has and most of the others have not."""
