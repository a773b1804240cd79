"""Findings in Chinese: their sentences come from all clauses and checks, in English.

A sentence is translated piece by piece: what stands for a brace is looked up, too. A message that
is not known here, such as a framework's own error, is shown as it is, marked as such.
"""

from __future__ import annotations

import re

from unifreeze._evidence.alignment.setting_words import TERMS

SENTENCES = {
    # measured differences
    "{} differs by {}, and {} is allowed": "{} 相差 {}，允许 {}",
    "differs by {}, and {} is allowed": "相差 {}，允许 {}",
    "{} and {}: {}, and {} is allowed": "{} 与 {}：相差 {}，允许 {}",
    "differs by {}": "相差 {}",
    "is the transpose of the first model's": "是参考模型的转置",
    "shape {}, and {} carried over": "形状为 {}，而移植来的形状为 {}",
    "… and {} more": "……另有 {} 项",
    "… and {} more of the same kind": "……另有 {} 项同类",
    "is not finite, or not there, on one side": "在一边不是有限数，或不存在",
    "not decidable in this precision: rounding alone changes it by up to {} (compare in float64)": (
        "此精度下无法判定：仅舍入就使其变化 {}（请用 float64 比较）"
    ),
    "off by up to {}: as if a part computed in single precision": (
        "最多相差 {}：像是有一部分以单精度计算"
    ),
    "left out: gradient below {} of the largest ({})": "梯度不到最大梯度的 {}，略过（{}）",
    "not compared: {}": "未比较：{}",
    "its batches vary in size": "该层各批大小不同",
    "its momentum is not a number": "该层的动量不是数字",
    "is of another length there; weight decay differs": "在另一边长度不同；权重衰减不同",
    "stopped early: {} with {} token": "提前停止：{1} 个词元处出现 {0}",
    "stopped early: {} with {} tokens": "提前停止：{1} 个词元处出现 {0}",
    # gradients, flags and frozen tensors
    "gets a gradient in {} only": "只在 {} 中有梯度",
    "is {}, and {} in {}": "在一边{0}，在 {2} 中{1}",
    "is {} in {} ({}), {} in {}": "在 {1} 中{0}（{2}），在 {4} 中{3}",
    "is decided by {} in {} ({}), {} in {}": "在 {1} 中由{0}决定（{2}），在 {4} 中由{3}决定",
    "has learning-rate factor {} in {} ({}), {} in {}": (
        "学习率系数在 {1} 中为 {0}（{2}），在 {4} 中为 {3}"
    ),
    "has weight decay {} in {} ({}), {} in {}": "权重衰减在 {1} 中为 {0}（{2}），在 {4} 中为 {3}",
    "rule {}": "第 {} 条规则",
    "holds its statistics in {} only": "只在 {} 中保持统计量",
    "one side counted by registration, the other by execution": (
        "一边按注册顺序计数，另一边按执行顺序"
    ),
    "is {} in {} by order of {}, {} by order of execution (apply with batch=, and compare with "
    "order='execution')": (
        "在 {1} 中按{2}为{0}，按执行顺序为{3}（apply 时给出 batch=，并以 order='execution' 比较）"
    ),
    "is decided {}, reads {}": "决定为{}，读出为{}",
    "is decided {}, is not reported": "决定为{}，但没有报告",
    "is an output of {} only": "只是 {} 的输出",
    "{} is an output of {} only": "{} 只是 {} 的输出",
    "is {} in {}, and {} in {}": "在 {1} 中为 {0}，在 {3} 中为 {2}",
    "is frozen and has a gradient": "已冻结却有梯度",
    "has a gradient of {}": "梯度为 {}",
    "is trainable and has no gradient": "可训练却没有梯度",
    "unreached: its module never ran on this batch": "未到达：其模块在这批输入上没有运行",
    "is frozen and moved": "已冻结却改变了",
    "is frozen and moved ({}, {})": "已冻结却改变了（{}，{}）",
    "is frozen and moved by up to {}": "已冻结却改变了，最多 {}",
    "is frozen and was not looked at": "已冻结，但没有检查",
    "should hold and moved": "应当保持不变，却改变了",
    "should hold and was not looked at": "应当保持不变，但没有检查",
    "should be off, and ran in training mode": "应当关闭，却以训练模式运行",
    "moves in {} and holds still in {}": "在 {} 中变化，在 {} 中不变",
    "not exercised: its gradient is practically zero ({})": "没有用到：其梯度几乎为零（{}）",
    "is trainable and did not move": "可训练却没有改变",
    "no trainable parameter moved": "没有可训练参数改变",
    "has shape {} as {} and {} as {}": "作为 {1} 形状为 {0}，作为 {3} 形状为 {2}",
    "{} of {} has no partner in {}": "{1} 的 {0} 在 {2} 中没有对应",
    "stands for {} parameters of {}: {}": "对应 {1} 的 {0} 个参数：{2}",
    "is ambiguous in {}: registration and execution number {} differently": (
        "在 {0} 中有歧义：注册顺序与执行顺序给 {1} 的编号不同"
    ),
    # settings
    "{}: {} and {} in {}: {}": "{0}：{3} 中为 {1} 与 {2}；{4}",
    "{} of {}: {} in {}, {} in {}: {}": "{1} 的{0}：{3} 中为 {2}，{5} 中为 {4}；{6}",
    **{
        f"{rate} {{}} in {{}} of {{}}: no layer of {{}} is in its place": (
            f"{{2}} 的 {{1}}：{TERMS[rate]}为 {{0}}，{{3}} 中没有对应的层"
        )
        for rate in ("dropout", "drop path", "attention dropout")
    },
    # pairing
    "row {} of {} is zeros in {} whatever it holds, and read as it is in {}: outputs differ on "
    "inputs that hold {}, unless that row is zero": (
        "{1} 的第 {0} 行在 {2} 中无论内容如何都按零读取，在 {3} 中按原值读取："
        "输入含 {4} 时输出不同，除非该行为零"
    ),
    "held once here, and twice there: {} and {}": "此处为一个张量，对方为两个：{} 和 {}",
    "tied there, as {}": "在对方与 {} 共享",
    "others here hold the same, outputs depend on each, and nothing tells them apart": (
        "此处还有内容相同的张量，输出依赖于每一个，无法区分"
    ),
    "outputs depend on it, and nothing there is the same": "输出依赖于它，而对方没有相同的张量",
    "its layer is normed along another axis": "该层沿另一个轴归一化",
    "its module never ran on this batch": "其模块在这批输入上没有运行",
    "its layer has no partner": "该层没有对应的层",
    "{} there have an equal gradient, interchangeable here: {}": (
        "对方有 {} 个张量梯度相同，在此处可以互换：{}"
    ),
    "no gradient on this batch tells it from others": "这批输入上没有梯度能区分它",
    "nothing there has an equal gradient": "对方没有梯度相同的张量",
    "it is square, and nothing tells which way round its partner is stored": (
        "它是方阵，无法判断其对应张量是否转置存储"
    ),
    # two models that cannot be paired
    "the two models do not return the same": "两个模型的返回值不同",
    "their shapes (and so their classes, labels or vocabularies) must agree": (
        "形状（即类别数、标签数或词表）必须一致"
    ),
    "the two models return no floating tensor that could be compared": (
        "两个模型都没有返回可比较的浮点张量"
    ),
    "of complex outputs return the real and imaginary parts (view_as_real, as_real)": (
        "复数输出请返回实部和虚部（view_as_real、as_real）"
    ),
    "this batch shows nothing: every gradient is zero": "这批输入无法说明问题：所有梯度为零",
    "use a batch on which the model's output depends on its parameters": (
        "请使用能让输出依赖于参数的输入"
    ),
    "the two models compute different functions: {} {} differs by {} on the same values": (
        "两个模型计算的函数不同：在相同数值上，{} {} 相差 {}"
    ),
    "output {}": "输出 {}",
    "every layer of {} has its equal; {} does more after that": (
        "{} 的每一层都有相同的层；{} 在其后还有别的计算"
    ),
    "first divergence: {} of {} returns {} and nothing in {} returns the same": (
        "最先不同之处：{1} 的 {0} 返回 {2}，而 {3} 中没有相同的返回值"
    ),
    "last agreement: {}": "最后一致之处：{}",
    "{} of {} and {} of {}": "{1} 的 {0} 与 {3} 的 {2}",
    "{} holds queries, keys and values in one tensor ({}) and {} does not": (
        "{} 把查询、键、值放在一个张量中（{}），而 {} 没有"
    ),
    "{} reads row {} of {} as zeros, whatever it holds, and {} as it is: a batch without {} shows "
    "whether that is all": (
        "{0} 把 {2} 的第 {1} 行一律按零读取，{3} 按原值读取：换一批不含 {4} 的输入可知是否仅此差别"
    ),
    "{} may hold in one tensor what {} holds apart: sketch the second first, and the first with "
    "--like": "{} 可能把 {} 分开的内容放在一个张量中：先对第二个模型 sketch，再用 --like 对第一个",
    "{} may use a table twice where {} has a matrix besides: sketch the second first, and the "
    "first with --like, to see": (
        "{} 可能两次使用同一张表，而 {} 另有一个矩阵：先对第二个模型 sketch，再用 --like 对第一个"
    ),
    "make them the same network first: its settings, not its weights, differ": (
        "先让两者成为同一个网络：不同的是配置，不是权重"
    ),
    "it is not certain which output is which: {} of {} and {} of {} are alike in shape": (
        "无法确定输出的对应：{1} 的 {0} 与 {3} 的 {2} 形状相同"
    ),
    "on the values that both models share, they are equal, and nothing else tells": (
        "在两边共用的数值上它们相等，没有别的区别"
    ),
    "let both models return them under the same keys, in a dictionary": (
        "请让两个模型在字典中以相同的键返回"
    ),
    "no tensors of the two models have one place in the network": "两个模型没有位置相同的张量",
    "the pairing does not hold: {}": "配对不成立：{}",
    "{} ties what {} holds in two tensors": "{} 共享一个张量，而 {} 分为两个",
    "tie them in both ports, or in neither: in training they are not one network": (
        "两边都共享或都不共享：否则训练时不是同一个网络"
    ),
    "outputs agree, and gradients of {} do not": "输出一致，但 {} 的梯度不一致",
    "one port cuts gradients (detach, no_grad, stop_gradient) where the other does not, or tensors "
    "that no output shows are swapped": (
        "一边切断了梯度（detach、no_grad、stop_gradient）而另一边没有，或交换了输出无法区分的张量"
    ),
    "nothing tells which way round both ports store {}": "无法判断两边如何存储 {}",
    "let a gradient reach them (no detach, no_grad or stop_gradient before the loss), or use the "
    "frameworks' own layers, whose storage is known": (
        "让梯度到达它们（损失之前不要 detach、no_grad 或 stop_gradient），"
        "或使用存储方式已知的框架自带层"
    ),
    "{} runs on some values and not on others ({})": "{} 只在部分数值上运行（{}）",
    "{} run on some values and not on others ({})": "{} 只在部分数值上运行（{}）",
    "use a batch of more rows, on which all of them run: every expert, for one": (
        "请使用更多行的输入，使全部（例如每个专家）都运行"
    ),
    "{} tensors that ran have no certain partner, and outputs depend on them": (
        "有 {} 个运行过的张量没有确定的对应，而输出依赖于它们"
    ),
    "give their partners as hints, which are checked (hints=, --map)": (
        "以提示给出对应关系（hints=、--map），提示会被检查"
    ),
    "on values carried over by it the two models differ": "按此配对移植数值后，两个模型不同",
    "these tensors' partners are wrong, or a statistic or state is not paired": (
        "这些张量的对应有误，或有统计量或状态没有配对"
    ),
    "outputs by {}; gradients of {}": "输出相差 {}；梯度不同者：{}",
    "without partner in {}: {}: {}": "在 {} 中没有对应：{}：{}",
    # pieces that others hold
    "{} tensor": "{} 个张量",
    "{} tensors": "{} 个张量",
}
"""Sentences with names and numbers in their braces, in order of those or by number."""

PREFIXES = {"note: ": "说明：", "hint: ": "提示："}
SIDE = re.compile(r"(.+) \((\w+) on (\w+)(?:, (\w+))?\)")
"""A sentence that ends with the run it is of."""
_LEFT_OUT = re.compile(r"… \(([\d,]+) more\)")
"""How a list of names ends that is cut."""
_KNOWN_BY_REGEX = [
    (re.compile(re.escape(english).replace(r"\{\}", "(.+?)")), chinese)
    for english, chinese in sorted(SENTENCES.items(), key=lambda row: -len(row[0]))
]


def in_chinese(finding: str) -> str:
    """Return a finding in Chinese; what is not known is marked as a message in English."""
    known = _translated(finding)
    if known is not None:
        return closed_up(_LEFT_OUT.sub(r"……（另有 \1 项）", known))
    return f"英文原文：`{finding.strip()}`" if is_sentence(finding) else finding


def closed_up(text: str) -> str:
    """Take out spaces between Chinese characters, which stand where a name might have been."""
    return re.sub(r"(?<=[\u4e00-\u9fff，：；（）]) (?=[\u4e00-\u9fff])", "", text)


def is_sentence(text: str) -> bool:
    """Return whether a text holds three English words in a row, and not only names and numbers."""
    return bool(re.search(r"(?<![\w./])[A-Za-z]{1,}[a-z']*,? [a-z][a-z'-]*,? [a-z][a-z'-]*", text))


def _translated(text: str) -> str | None:
    """Translate a sentence, or the pieces of it; None if it is not known."""
    text = text.strip()
    for english, chinese in PREFIXES.items():
        if text.startswith(english):
            inner = _translated(text.removeprefix(english))
            return None if inner is None else chinese + inner
    if text in TERMS:
        return TERMS[text]
    for pattern, chinese in _KNOWN_BY_REGEX:
        match = pattern.fullmatch(text)
        # A piece that ends so is the subject of a finding, which is taken off below.
        if match and not any(piece.endswith(":") for piece in match.groups()):
            return chinese.format(*(_piece(group) for group in match.groups()))
    if match := SIDE.fullmatch(text):
        inner = _translated(match[1])
        run = f"，{match[4]}" if match[4] else ""
        return None if inner is None else f"{inner}（{match[2]}，{match[3]}{run}）"
    subject, colon, rest = text.partition(": ")
    while colon:
        inner = _translated(rest)
        if inner is not None:
            return f"{_piece(subject)}：{inner}"
        piece, colon, rest = rest.partition(": ")
        subject = f"{subject}: {piece}"
    return None


def _piece(text: str) -> str:
    known = _translated(text)
    if known is not None:
        return known
    side = re.fullmatch(r"(\w+) on (\w+)", text)
    return f"{side[1]}（{side[2]}）" if side else text
