"""Signals: short expressions that say what a text does, each in linear time whatever the text.

Expressions hold no wide gaps: between two words only listed filler words may stand. So the automaton of all of them
together stays small, and hostile text cannot make it grow (see the timing tests). A signal alone is weak evidence; its
weight is learned (training/). What the names mean is in SIGNALS, first column; `steers` marks those a tool description
or a result has little honest use for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

import re2  # type: ignore[import-untyped]

from limen.core.faults import Fault
from limen.core.remembered import remembered

# What may stand between a verb and what it drops: "ignore [all of the] previous".
_FILL: Final = (
    r"(?:(?:all|any|every|each|of|the|your|my|these|those|this|that|what|whatever|everything|anything|"
    r"else)\s+){0,4}"
)
_PAST: Final = (
    r"(?:previous|prior|earlier|above|preceding|past|former|original|initial|existing|system|other|safety|current)"
)
_TOLD: Final = (
    r"(?:instruction|direction|prompt|rule|guideline|command|order|message|request|context|task|polic|"
    r"constraint|question|restriction|content|text|input)"
)

PATTERNS: Final[dict[str, tuple[str, ...]]] = {
    "override": (
        rf"\b(?:ignor(?:e|ing)|disregard|forget|override|bypass|neglect|skip|drop|discard|abandon|dismiss|"
        rf"delete)\s+{_FILL}{_PAST}\b",
        rf"\b(?:ignore|disregard|forget|override)\s+{_FILL}{_TOLD}",
        r"\b(?:forget|disregard|ignore)\s+(?:everything|all|anything|what)\s+(?:that\s+)?(?:you|i|was|we|"
        r"came|has|before|above|prior|else)\b",
        r"\b(?:instructions?|rules?|guidelines|prompts?|directives)\s+(?:above|before|so far|"
        r"given)?\s*(?:are|is|were|have been|has been|no longer)\s+(?:now\s+)?(?:cancel|void|replac|"
        r"supersed|obsolete|overrid|revoked|outdated|appl|invalid|a test|only a test)",
        r"\bdo\s+not\s+(?:follow|obey|perform|continue)\s+(?:with\s+)?(?:the|your|any|my)\s+(?:original|"
        r"previous|user|system|initial|rules|guidelines|current)",
        r"\b(?:ignorier|vergiss|missacht|vergessen sie)\w*\s+(?:bitte\s+)?(?:alle?s?|die|deine|das|"
        r"sämtliche|was|jede)\b",
        r"\b(?:ignore[zr]?|oublie[zr]?)\s+(?:toutes?|tout|les|ce qui|tes|vos)\b",
        r"\b(?:ignora|olvida|olvide|desconsidere|esque[cç]a|ignore|dimentica)\s+(?:tod[oa]s?|tutt[oei]|"
        r"lo que|las|as|le|tus|suas|quello|quanto)\b",
        r"\b(?:negeer|vergeet)\s+(?:alle|alles|de|je|wat)\b",
        r"(?:zignoruj|zapomnij|pomiń)\s+(?:o\s+)?(?:wszystk|poprzed|swoj)",
        r"(?:игнорируй|забудь|проигнорируй)\w*\s+(?:вс[её]|предыдущ|про|сво)",
        r"(?:abaikan|lupakan)\s+(?:semua|instruksi|perintah)",
        r"(?:talimatlar|yönergeler|kurallar|komutlar)\w*\s+(?:yok\s*say|unut|görmezden|dikkate alma)",
        r"(?:忽略|无视|無視|忘记|忘掉|忘記|不要理会|不用理会|停止遵守)(?:之前|上面|以上|先前|前面|所有|一切|全部|任何|你|的|掉|给){0,5}(?:指令|指示|提示|内容|"
        r"內容|规则|要求|设定|對話|对话|一切|所有|之前|上面|以上)",
        r"(?:指示|命令|ルール|内容|プロンプト|こと)(?:を|は)?(?:すべて|全て|全部)?(?:無視|忘れ|破棄|取り消)",
        r"(?:지시|명령|내용|규칙|지침|프롬프트|사항)(?:를|을|은|는|사항을)?\s*(?:모두|전부|다)?\s*(?:무시|잊|취소)",
        r"(?:تجاهل|انس|انسى)\s+(?:كل|جميع|ما|كافة|التعليمات)",
        r"(?:निर्देश|आदेश|नियम)\S*\s+(?:को\s+)?(?:अनदेखा|भूल|नज़रअंदाज़)",
        r"(?:دستورات|دستورالعمل)\S*\s+(?:قبلی|بالا)?\s*(?:را)?\s*(?:نادیده|فراموش)",
        r"(?:αγνόησε|αγνοήστε|ξέχνα|ξεχάστε)\s+(?:όλ|τις|τα|ό,τι)",
        r"(?:เพิกเฉย|ละเว้น|ลืม)(?:ต่อ)?(?:คำสั่ง|ทุก|ข้อความ)",
    ),
    "new_orders": (
        r"\b(?:new|updated|real|actual|true|following|additional|special|"
        r"revised)\s+(?:and\s+)?(?:instructions?|task|orders?|objective|directive|system prompt|"
        r"mission)\b\s*(?:[:.\n]|is\b|are\b|for\b)",
        r"\b(?:your|the)\s+(?:new|real|actual|true|only)\s+(?:task|goal|job|instruction|objective|purpose|role)\b",
        r"\bnext\s+(?:user\s+)?(?:task|step for|request)\b\s*[:]?",
        r"\bfrom\s+now\s+on\b",
        r"\binstead[,:]?\s+(?:you\s+(?:must|should|will)|please|do|send|write|reply|say|output|print|answer)\b",
        r"\b(?:you must|you have to|you are required to)\s+(?:strictly\s+)?(?:adhere|obey|comply|follow)\b",
        r"\b(?:neue (?:anweisung|aufgabe)|ab jetzt|nouvelle (?:instruction|tâche)|nueva (?:instrucción|"
        r"tarea)|nova (?:instrução|tarefa)|nuova istruzione|nowe polecenie|новая (?:инструкция|задача)|"
        r"yeni (?:talimat|görev))",
        r"(?:新(?:的)?(?:指令|任务|任務|指示)|从现在(?:起|开始)|今後は|これから(?:は)?|新しい(?:指示|タスク)|지금부터|새로운\s*(?:지시|작업|명령))",
    ),
    "role_token": (
        r"<\|?(?:im_start|im_end|system|endoftext|eot_id|start_header_id|assistant|user)\|?>",
        r"\[/?(?:inst|system|sys)\]",
        r"<</?sys>>",
        r"</?(?:system|assistant|instructions?|system_prompt|admin)>",
        r"(?m)^\s*(?:#+\s*)?(?:system|assistant|admin|developer|human)\s*(?:message|prompt|note)?\s*:",
        r"\b(?:system|admin|developer)\s+(?:override|notice|message|alert|command|note|update)\b",
        r"[\"']?role[\"']?\s*:\s*[\"'](?:system|developer|assistant)[\"']",
        r"(?m)^#{2,}\s*(?:new\s+)?(?:instruction|system|response)\b",
        r"\bend\s+of\s+(?:the\s+)?(?:document|data|input|text|context|file|user)\b",
    ),
    "address": (
        r"\b(?:ai|llm|language)\s+(?:assistant|model|agent|system)s?\b",
        r"\b(?:dear|hey|hi|hello|attention|note (?:to|for)(?: the)?|to the|to all|for the|as the|as an?|"
        r"instructions? for(?: the)?)\s+(?:ai|llm|assistant|agent|chatbot|bot|model|chatgpt|gpt|claude|"
        r"copilot|coding agent)s?\b",
        r"\b(?:chatgpt|claude|copilot|gemini|gpt-?\d)\b",
        r"\bif\s+you\s+are\s+an?\s+(?:ai|llm|assistant|language|automated|agent|bot|large)\b",
        r"\b(?:assistant|agent|chatbot|model|llm|bot)s?\s*(?:must|should|shall|has to|need to|needs to|,|:|please)",
        r"\b(?:automated|autonomous)\s+(?:system|agent|reader|process)s?\b",
        r"(?:ki-(?:assistent|agent|modell)|sprachmodell|assistant ia|modèle de langage|asistente de ia|"
        r"modelo de (?:lenguaje|linguagem)|assistente (?:de )?ia|taalmodel|asystent\w* ai|ии-ассистент|"
        r"языков\w+ модел|yapay zek|人工智能|语言模型|語言模型|ai\s*助手|言語モデル|"
        r"aiアシスタント|인공지능|언어\s*모델|ai\s*어시스턴트|"
        r"الذكاء الاصطناعي|هوش مصنوعی|एआई|ปัญญาประดิษฐ์|เอไอ|τεχνητής νοημοσύνης)",
    ),
    "secrecy": (
        r"\b(?:do\s+not|don'?t|never|without|must\s+not|avoid|no\s+need\s+to)\s+(?:ever\s+)?(?:tell|"
        r"mention|inform|reveal|notify|disclose|alert|show|ask|say|telling|mentioning|informing|notifying|"
        r"asking|alerting|explain|warn)(?:ing)?\s+(?:this|it|that|anything|the\s+user|anyone|anybody|them|"
        r"to|about|user|any|for)\b",
        r"\b(?:silently|secretly|covertly|discreetly|in\s+secret|keep\s+(?:this|it)\s+(?:secret|hidden|"
        r"confidential|quiet|private))\b",
        r"\b(?:hide|conceal)\s+(?:this|it|that|the\s+(?:step|action|call|fact|parameter))\b",
        r"\bas\s+if\s+nothing\s+happened\b",
        r"\b(?:user|owner|customer)\s+(?:must|should|will|does|need|has|is)\s*(?:not|"
        r"n't)\s+(?:need\s+to\s+)?(?:see|know|be|notice|aware)",
        r"\bno\s+(?:user\s+)?confirmation\b",
        r"(?:不要告诉|不要提(?:到|及)|別告訴|知らせない|触れない|伝えない|알리지\s*(?:마|말)|언급하지|"
        r"말하지\s*(?:마|말)|لا تخبر|niemandem|"
        r"nicht dem nutzer|sag dem nutzer nichts|n'en parle pas|no se lo digas|não conte|non dirlo|"
        r"vertel dit niet|nie mów|не говори)",
    ),
    "authority": (
        r"\b(?:authori[sz]ed|approved|required|requested|mandated)\s+by\s+(?:the\s+)?(?:security|admin|"
        r"user|owner|account|legal|it|compliance|management|policy)\b",
        r"\b(?:highest|top|maximum|critical)\s+priority\b",
        r"\b(?:developer|debug|god|admin|maintenance|sudo|jailbreak|dan|unrestricted)\s+mode\b",
        r"\b(?:i am|this is)\s+(?:the|your)\s+(?:user|developer|admin|administrator|creator|owner|"
        r"operator|system)\b",
        r"\bsecurity\s+team\b",
        r"\b(?:user|owner)\s+(?:has\s+)?(?:already\s+)?(?:agreed|approved|consented|authori[sz]ed|"
        r"confirmed|is aware)\b",
    ),
    "leak": (
        r"\b(?:reveal|print|show|repeat|output|tell|display|give|share|return|reply with|list|write|leak|"
        r"expose|recite|dump|disclose)\s+(?:me\s+|us\s+|out\s+)?(?:the\s+|your\s+|all\s+|of\s+|full\s+|"
        r"entire\s+|exact\s+|hidden\s+|complete\s+|initial\s+|secret\s+){0,4}(?:system\s+(?:prompt|"
        r"message|instruction)|(?:initial|hidden|secret|original)?\s*(?:instructions|prompt|rules|"
        r"guidelines)|initiali[sz]ation)",
        r"\b(?:conversation|chat|message)\s+history\b",
        r"\b(?:whole|entire|full|complete)\s+(?:conversation|chat|context|prompt)\b",
        r"(?:systemprompt|prompt (?:de |do )?sist[eè]m|invite système|系统提示|"
        r"系統提示|システムプロンプト|시스템\s*프롬프트|"
        r"системный промпт|موجه النظام|初始设定)",
    ),
    "persona": (
        r"\byou\s+are\s+(?:now|no\s+longer|going\s+to\s+(?:be|act|pretend))\b",
        r"\b(?:act|behave|respond|answer|pretend|roleplay|role-play)\s+(?:as|like|"
        r"to\s+be)\s+(?:if\s+)?(?:you|an?|the|dan)\b",
        r"\b(?:no|without(?:\s+any)?|free\s+(?:of|from)|unbound\s+by|"
        r"not\s+bound\s+by)\s+(?:any\s+)?(?:restrictions?|limits?|limitations?|filters?|rules|censorship|"
        r"ethical|moral|guidelines)\b",
        r"\b(?:unrestricted|unfiltered|uncensored|jailbroken|amoral|do anything now)\b",
    ),
    "hidden_tag": (
        r"<(?:important|hidden|information|secret|critical|note_to_ai|instruction|imp|s>)\b",
        r"(?:display\s*:\s*none|font-size\s*:\s*0|visibility\s*:\s*hidden|color\s*:\s*(?:white|#fff)|"
        r"opacity\s*:\s*0)",
        r"<!--\s*(?:ai|system|note|important|instruction|if you|ignore|end|assistant|llm|dear)",
    ),
    "urgency": (
        r"\b(?:important|urgent|critical|attention|mandatory|warning)\s*[:!]",
        r"\b(?:immediately|at once|right now|before anything else|first of all you must|this is very important)\b",
    ),
    "secret_target": (
        r"(?:~|/hom[e]/\w+|/root|\$home)/\.(?:ssh|aws|cursor|config|kube|env|netrc|gnupg|docker|npmrc)",
        r"\b(?:id_rsa|id_ed25519|mcp\.json|credentials\.json|\.env\b|/etc/passwd|/etc/shadow|\.git-credentials)",
        r"\b(?:api[ _-]?keys?|access\s+tokens?|private\s+keys?|passwords?|credentials|secrets|"
        r"one-time\s+code|session\s+cookies?|2fa)\b",
        r"(?:密码|密碼|密钥|パスワード|비밀번호|пароли|passwörter|mots de passe|contraseñas|senhas|كلمات المرور)",
    ),
    "send": (
        r"\b(?:send|forward|e-?mail|upload|post|exfiltrate|transmit|leak|submit|deliver|share|copy|bcc|"
        r"cc)\s+(?:it|them|this|that|all|the|a|every|any|your|his|her|their|everything|contents?|its|full|"
        r"whole|entire)\b",
        r"\bwire\b|\btransfer\s+(?:the|\$|\d|all|my|funds|money|records?)",
        r"(?:发送(?:到|给)|发给|傳送到|送信|보내|отправ|sende|schicke|envoie|envía|envie|invia|stuur|wyślij|gönder|"
        r"أرسل|kirim|भेज|بفرست|στείλε|ส่ง)",
    ),
    "target": (r"\w@[\w-]+\.[a-z]", r"https?://\w"),
    "destroy": (
        r"\brm\s+-rf\b|\bdrop\s+table\b",
        r"\b(?:delete|erase|wipe|remove|destroy)\s+(?:all|every|everything|the\s+(?:entire|whole))\b",
        r"\b(?:refund|approve|merge|grant|disable|unlock|whitelist|purchase)\s+(?:the|all|every|access|"
        r"this|me|my)\b",
        r"\bcurl\s+[^\s|]+\s*\|\s*(?:ba)?sh\b",
    ),
    "trigger": (
        r"\b(?:before|prior\s+to|whenever|each\s+time|every\s+time|after|when)\s+(?:you\s+)?(?:using|use|"
        r"calling|call|invoking|invoke|running|executing|call(?:ed|ing))\s*(?:this|any|the|other|another|"
        r"it|,)?\s*(?:other\s+)?(?:tools?|functions?)?\b",
        r"\bwhen\s+(?:this|the|any)\s+(?:tool|function)\s+is\s+(?:called|used|invoked|loaded|available)",
        r"\b(?:always|must|first)\s+(?:be\s+)?call(?:ed)?\s+(?:this|first|before|it)\b",
        r"\bbefore\s+you\s+(?:continue|answer|respond|proceed|solve|start|do|can|complete|finish)\b",
        r"\b(?:this|the)\s+tool\s+(?:will\s+)?(?:fails?|not\s+work|overrides|is\s+installed|requires\s+you)",
    ),
    "stuffing": (
        r"\b(?:pass|put|include|insert|provide|supply|place|add|copy|append|paste|embed|write|"
        r"send)\s+(?:it|its|the|their|all|this|that|them|any|full|here|complete|"
        r"file)\s*(?:\w+\s+){0,3}(?:as|in|into|to|through|via|of)\s+(?:the\s+|a\s+)?[`'\"]",
        r"\b(?:as|in|into|through|via)\s+(?:the\s+)?[`'\"]\w+[`'\"]\s*(?:parameter|argument|field|arg|param)?",
        r"\bput\s+here\b",
        r"\bcontents?\s+of\b",
        r"\bsidenote\b",
    ),
    "shadow": (
        r"\b(?:instead\s+of|rather\s+than|do\s+not\s+use|never\s+use|don't\s+use|stop\s+using|ignore|"
        r"overrides?|replaces?)\s+(?:the\s+)?(?:other|original|any\s+other|all\s+other|"
        r"\w+_\w+)\s*(?:tools?|function|descriptions?)?",
        r"\b(?:other|another|different)\s+(?:mcp\s+)?(?:tools?|servers?)\b",
    ),
    "beacon": (
        r"!\[[^\]\n]*\]\(https?://",
        r"[?&](?:data|d|q|c|secret|key|token|info|payload)=(?:[\[{<]|data\b)",
        r"\b(?:render|display|load|include)\s+(?:the|this|an?)\s+(?:image|link|pixel)\b",
    ),
    "decode": (
        r"\b(?:decode|decrypt|base64|rot13|deobfuscate)\s+(?:it\s+|this\s+|the\s+|text\s+|string\s+|"
        r"following\s+|message\s+){0,3}(?:and|then)\s+(?:follow|execute|run|do|obey|act)\b",
        r"\b(?:follow|execute|run)\s+(?:the\s+)?(?:decoded|hidden|encoded)\b",
    ),
    "answer_only": (
        r"\b(?:reply|respond|answer|say|output|print|write|return)\s+(?:only|just|exactly|simply|"
        r"nothing\s+but|always)\b",
        r"\bonly\s+(?:reply|respond|answer|say|output)\b",
        r"\b(?:task|request)\s+(?:is\s+)?(?:complete|completed|done|finished)\b[.!\n]",
        r"(?:只(?:回答|回复|输出)|とだけ|라고만|antworte nur|réponds uniquement|responde solo|responda apenas|"
        r"rispondi solo|antwoord alleen|odpowiedz tylko|ответь только)",
    ),
    "english_in_other": (r"\bhaha\b[^a-z]{0,3}pwned|\bi have been pwned\b|\bpwned\b",),
    # Words that orders to a model are made of and much else too: no evidence, only a reason for the classifier to look.
    "wording": (
        r"\b(?:instruct(?:ions?|ed)|prompts?|pretend|regardless|forbidden|whatever|ignor(?:e|ed|es|ing)|"
        r"overrid(?:e|es|den|ing)|disregard|obey|compliance|(?:un)?ethic(?:s|al)|yourself|reply|forget|humans?|"
        r"refus(?:e|al)|jailbreak|secretly|please|assistant|model|software|agent|reader|you are|must|doit|tu|moet|"
        r"muss|act as|evil|villain|immoral|morali[sz]e|apologi[sz]e|disclaimers?|refusing|imaginary|hypothetical|"
        r"role-?play|thought experiment|verbatim|word for word|objective|directive|instead of answering|"
        r"(?:everything|text|lines?|words) above|above this)\b",
        r"\b(?:wiederhole|répète|repite|repita|ripeti|herhaal|powtórz|ulangi|tekrarla|görevini|compito)\b",
        r"\b(?:anweisung|aufgabe|vergiss|ignorier|antwort|bitte|regeln|vous devez|tu dois|oublie|réponds|consigne|"
        r"tâche|règles|debes?\b|olvida|responde|eres\b|tarea|reglas|instruc|deve\b|devi\b|você|esque|tarefa|regras|"
        r"dimentica|rispondi|sei\b|regole|negeer|vergeet|antwoord|jij\b|zignoruj|zapomnij|odpowiedz|jesteś|polecen|"
        r"zadani|zasad|talimat|önceki|söylenen|yanıtla|unut|kural|abaikan|lupakan|jangan|perintah|aturan|instruk|sistem|"
        r"résum|resum|zusammenfass|samenvat|riassum|programm|logiciel)",
    ),
}
WORDING: Final = "wording"
SIGNALS: Final = tuple(name for name in PATTERNS if name != WORDING)  # what counts as evidence
STEERS: Final = frozenset({"override", "role_token", "secrecy", "leak", "stuffing", "hidden_tag", "decode", "beacon"})
_SHORT: Final = 64  # characters of a text whose signals are kept
Signals = Mapping[str, tuple[int, ...]]
_NONE: Final[Signals] = MappingProxyType({})
MEMORY: Final = 64 << 20  # bytes for the automaton of the whole set, at most


@dataclass(frozen=True, slots=True)
class _Compiled:
    group: re2.Set
    owner: tuple[str, ...]
    single: tuple[re2._Regexp[str], ...]


def _options(memory: int) -> re2.Options:
    options = re2.Options()
    options.max_mem = memory
    options.case_sensitive = False
    options.log_errors = False
    return options


@cache
def _compiled() -> _Compiled:
    group = re2.Set.SearchSet(_options(MEMORY))
    owner: list[str] = []
    single = []
    for name in PATTERNS:
        for expression in PATTERNS[name]:
            group.Add(expression)
            owner.append(name)
            single.append(re2.compile(expression, _options(MEMORY >> 3)))
    group.Add(r"\A")  # matches everything: if it is not reported, the engine gave up
    group.Compile()
    return _Compiled(group, tuple(owner), tuple(single))


@remembered(1024, _SHORT)  # names of members and words of enumerations come again and again
def signals(text: str) -> Signals:
    """Which signals the text shows: name -> numbers of the expressions that matched, for `where`.

    Raises Fault where the engine ran out of memory: a text that was not searched is not a text without signals.
    """
    compiled = _compiled()
    matched = compiled.group.Match(text.encode("utf-8", "replace"))
    if not matched or len(compiled.owner) not in matched:
        raise Fault("the signal engine gave up on a text")
    if len(matched) == 1:
        return _NONE
    found: dict[str, tuple[int, ...]] = {}
    for number in matched:
        if number == len(compiled.owner):
            continue
        name = compiled.owner[number]
        found[name] = (*found.get(name, ()), number)
    return MappingProxyType(found)


def where(text: str, expressions: tuple[int, ...]) -> tuple[int, int]:
    """The first place, in characters, one of these expressions matches; (0, 0) if none does."""
    for number in expressions:
        match = _compiled().single[number].search(text.encode("utf-8", "replace").decode())
        if match is not None:
            start, end = match.span()
            return start, end
    return 0, 0
