"""The sentences of an acceptance report, in English and in Chinese."""

from __future__ import annotations

from collections.abc import Mapping

from unifreeze.errors import counted

SECTION_TITLES = {
    "pairing": ("Pairing", "参数配对"),
    "weights": ("Weights", "权重"),
    "layers": ("Forward pass, layer by layer", "逐层前向对齐"),
    "outputs": ("Outputs", "输出（logits）对齐"),
    "tokens": ("Greedy tokens", "贪心解码"),
    "gradients": ("Gradients", "反向对齐"),
    "updates": ("Optimizer steps", "优化器更新对齐"),
    "training": ("Training", "训练对齐"),
    "settings": ("Settings", "配置差异"),
    "parity": ("The plan on both", "冻结方案的一致性"),
    "versions": ("Versions and devices", "版本与设备"),
}
VERDICTS = {
    "holds": ("holds", "通过"),
    "BROKEN": ("**BROKEN**", "**未通过**"),
    "open": ("open", "无法判定"),
    "note": ("note", "说明"),
    "not checked": ("not checked", "未检查"),
}
WORDS = {
    "title": ("Acceptance report of a port", "复现对齐报告"),
    "holds": ("The port is aligned.", "结论：已对齐。"),
    "broken": ("The port is not aligned.", "结论：未对齐。"),
    "first": ("first model", "参考模型"),
    "second": ("port", "复现模型"),
    "weights": ("weights of the first model", "参考模型的权重"),
    "unknown weights": ("not stated, taken as random", "未说明，按随机权重处理"),
    "inputs": ("inputs", "输入"),
    "seed": ("seed", "随机种子"),
    "plan": ("plan of the training", "训练所用方案"),
    "counts": (
        "{all:line/lines}: {holds:holds/hold}, {BROKEN} broken, {open} open, {note:note/notes}, "
        "{unchecked} not checked.",
        "共 {all} 项：通过 {holds}，未通过 {BROKEN}，无法判定 {open}，说明 {note}，"
        "未检查 {unchecked}。",
    ),
    "line": ("Line {number}:", "第 {number} 项："),
    "lines": ("Lines {number}:", "第 {number} 项："),
    "and": (", ", "、"),
    "apart": ("absolute difference", "绝对差异"),
    "how": (
        "During the checks the port holds the first model's weights. Layers with running "
        "statistics train, everything random is off. Differences are relative: the norm of the "
        "difference divided by the norm of the values. Both models were restored bit for bit.",
        "检查期间，复现模型使用参考模型的权重；带滑动统计量的层处于训练模式，所有随机层关闭。"
        "差异均为相对差异：差的范数除以数值的范数。检查结束后，两个模型都已逐比特恢复原状。",
    ),
    "verdict": ("verdict", "结论"),
    "check": ("check", "检查项"),
    "measured": ("difference", "实测差异"),
    "threshold": ("threshold", "阈值"),
    "from": ("where the threshold comes from", "阈值来源"),
    "curves": ("Loss of both models at each step", "两个模型每一步的损失"),
    "loss of": ("Loss of `{output}`: {kind}.", "损失：{kind}，取自输出 `{output}`。"),
    "no training": ("no training was run", "没有进行训练"),
    "some steps": (
        "The table shows {shown} of {all} losses, the largest difference among them.",
        "下表列出 {all} 个损失中的 {shown} 个，包括差异最大者。",
    ),
    "step": ("step", "步数"),
    "itself": ("the value itself", "模型自身返回的损失"),
    "cross-entropy": ("cross-entropy with seeded labels", "固定种子标签的交叉熵"),
    "squared distance": ("mean squared distance from seeded targets", "与固定种子目标的均方误差"),
}
SOURCES = {
    "": ("", ""),
    "certificate": (
        "float64: ports of one network differ by 1e-16 to 1e-11, by 1e-6 where a part computes in "
        "float32",
        "float64：同一网络的移植之间相差 1e-16 到 1e-11，局部以 float32 计算时约 1e-6",
    ),
    "double": (
        "float64, where rounding cannot explain a difference: fixed, above what correct ports show",
        "float64 下舍入误差无法解释差异；固定阈值，高于正确移植的实测值",
    ),
    "noise": (
        "5 times the models' own rounding noise in this run, or a fixed floor if that is more",
        "本次运行中模型自身舍入噪声的 5 倍，或固定下限，取较大者",
    ),
    "losses": (
        "a fixed floor; where that is not enough, 5 times the largest change of the port's loss "
        "when each step moves its inputs by one unit in the last place and is 8e-6 longer",
        "固定下限；若不够，则取复现模型每步将输入移动一个最低有效位、步长增大 8e-6 时"
        "损失最大变化的 5 倍",
    ),
    "tokens": (
        "equal, unless the first two scores are within 1e-4",
        "逐个相等；前两名得分相差不到 1e-4 时除外",
    ),
}
_OWN = (
    "{0}, in the models' own precision (nearest to its limit: {{subject}})",
    "{1}，模型自身精度（最接近阈值：{{subject}}）",
)
_DOUBLE = (
    "{0}, in float64 (nearest to its limit: {{subject}})",
    "{1}，float64（最接近阈值：{{subject}}）",
)
_STEP = {
    "outputs": ("outputs agree", "输出一致"),
    "step gradients": ("gradients agree", "梯度一致"),
    "updates (sgd)": ("one step of SGD changes parameters alike", "SGD 一步的更新一致"),
    "updates (adamw)": ("one step of AdamW changes parameters alike", "AdamW 一步的更新一致"),
    "statistics": ("running statistics agree, but for n/(n-1)", "滑动统计量一致（已扣除 n/(n-1)）"),
}
LINES = {
    "precisions": (
        "the first model computes in {one}, the port in {other}; the coarser one decides",
        "参考模型以 {one} 计算，复现模型以 {other} 计算；以较粗的精度为准",
    ),
    "failed": ("this check could not be run", "此项检查无法运行"),
    "not paired": (
        "nothing could be compared: no tensors could be paired",
        "无法比较：没有可以配对的张量",
    ),
    "paired": (
        "{parameters:parameter/parameters} and {statistics:statistic/statistics} are paired by "
        "what they compute",
        "{parameters} 个参数和 {statistics} 个统计量已按计算结果配对",
    ),
    "not one function": (
        "the two do not compute one function; below, tensors are paired by place or as given",
        "两个模型计算的不是同一个函数；以下按位置或给定的对应关系配对",
    ),
    "certificate outputs": (
        "certificate: outputs agree on values carried over by the pairing",
        "配对证明：按配对移植数值后输出一致",
    ),
    "certificate gradients": (
        "certificate: {count:gradient agrees/gradients agree} (largest difference in {worst})",
        "配对证明：{count} 个梯度一致（差异最大者 {worst}）",
    ),
    "no partner": (
        "{count:tensor has/tensors have} no partner in the other model",
        "{count} 个张量在另一个模型中没有对应",
    ),
    "gradient cut off": (
        "{count:tensor gets/tensors get} a gradient in one model only",
        "{count} 个张量只在一个模型中有梯度",
    ),
    "read as zeros": (
        "row {row} of {one} is read as zeros by one model only, and it is not zero",
        "{one} 的第 {row} 行只在一个模型中按零读取，而该行并不为零",
    ),
    "zeros in both": (
        "row {row} of {one} is read as zeros by one model only; it is zero, so this does no harm",
        "{one} 的第 {row} 行只在一个模型中按零读取；该行本来为零，没有影响",
    ),
    "never ran": (
        "{count:tensor takes/tensors take} no part in the outputs of this batch",
        "{count} 个张量对这批输入的输出没有影响",
    ),
    "carried": (
        "{tensors:tensor/tensors} with {values:value/values} carried over for the checks",
        "已为检查移植 {tensors} 个张量，共 {values:,} 个数值",
    ),
    "holds them": (
        "the port holds the first model's weights already",
        "复现模型已持有参考模型的权重",
    ),
    "own weights": (
        "the port has weights of its own: {differ} of {tensors:tensor/tensors} "
        "{differ:~differs/differ}",
        "复现模型使用自己的权重：{tensors} 个张量中有 {differ} 个不同",
    ),
    "some differ": (
        "the port holds the first model's weights, but for {differ} of {tensors:tensor/tensors}",
        "复现模型持有参考模型的权重，但 {tensors} 个张量中有 {differ} 个不同",
    ),
    "layers": (
        "{count:paired layer agrees/paired layers agree} in {dtype} (nearest to its limit: {one} "
        "and {other})",
        "{count} 对层在 {dtype} 下一致（最接近阈值：{one} 与 {other}）",
    ),
    "first layer": (
        "of {count:paired layer/paired layers} in {dtype}, the first that differs is {one} "
        "({other})",
        "在 {dtype} 下比较了 {count} 对层，最先不同的是 {one}（{other}）",
    ),
    "no layers": ("no paired layers return as many values", "没有返回同样多数值的配对层"),
    "tokens": (
        "{agreed} of {count:greedy token/greedy tokens} {agreed:~is/are} equal (weights: "
        "{weights})",
        "{count} 个贪心词元中有 {agreed} 个相同（权重：{weights}）",
    ),
    "tokens of random weights": (
        "{agreed} of {count:greedy token/greedy tokens} {agreed:~is/are} equal (nobody said where "
        "the weights come from: taken as random)",
        "{count} 个贪心词元中有 {agreed} 个相同（未说明权重来源，视为随机权重）",
    ),
    "no words": (
        "no output scores the words of a vocabulary, so there are no tokens to compare",
        "没有对词表逐词打分的输出，因而没有可比较的词元",
    ),
    **{
        f"{key} in own precision": tuple(text.format(*pair) for text in _OWN)
        for key, pair in _STEP.items()
    },
    **{key: tuple(text.format(*pair) for text in _DOUBLE) for key, pair in _STEP.items()},
    "large inputs": (
        "outputs agree on inputs {times} times as large, in float64 ({subject})",
        "输入放大 {times} 倍后输出一致，float64（{subject}）",
    ),
    "decisions": (
        "the plan decides the same for both tensors of every pair",
        "方案对每一对张量的决定相同",
    ),
    "frozen": (
        "frozen parameters and held statistics keep every bit",
        "冻结的参数和保持的统计量逐比特不变",
    ),
    "losses": (
        "the losses of {steps:step/steps} of AdamW agree, in the models' own precision",
        "AdamW 训练 {steps} 步，损失一致（模型自身精度）",
    ),
    "losses in float64": (
        "the losses of {steps:step/steps} of AdamW agree, in float64",
        "AdamW 训练 {steps} 步，损失一致（float64）",
    ),
    "setting": (
        "{setting}: {one} in the first model, {other} in the port, in {count:layer/layers}",
        "{setting}：参考模型为 {one}，复现模型为 {other}，共 {count} 层",
    ),
    "settings agree": (
        "no setting of paired layers differs in a way that counts",
        "配对层的配置没有实质差异",
    ),
    "random layers": (
        "{count:layer that draws/layers that draw} random numbers {count:~has/have} no certain "
        "counterpart",
        "{count} 个随机层没有确定的对应层",
    ),
    "defaults": (
        "{count:default of optimizers differs/defaults of optimizers differ}; the steps above "
        "give every setting",
        "{count} 项优化器默认值不同；上面的步骤显式给出了所有设置",
    ),
    "parity: parameters": ("both have the same parameters", "两边参数相同"),
    "parity: paired": (
        "places of parameters differ; the pairing above says which are the same",
        "参数的位置不同；以上面的配对为准",
    ),
    "parity: decisions": (
        "every parameter gets the same decision, by the same rule",
        "每个参数由同一规则得到同一决定",
    ),
    "parity: order": (
        "the plan decides the same where positions are counted by execution",
        "按执行顺序计数时决定相同",
    ),
    "parity: flags": ("every flag reads as decided", "每个可训练标志与决定一致"),
    "parity: outputs": ("outputs have the same shapes", "输出形状相同"),
    "parity: gradients": (
        "gradients reach exactly the trainable parameters",
        "梯度恰好到达可训练参数",
    ),
    "parity: frozen": ("frozen parameters keep every bit", "冻结的参数逐比特不变"),
    "parity: state": (
        "held statistics keep every bit, others move alike",
        "保持的统计量逐比特不变，其余变化一致",
    ),
    "parity: trained": ("every trainable parameter moves", "每个可训练参数都有更新"),
    "versions": (
        "model {number}: {model} in {framework} on {device}; {versions}",
        "模型 {number}：{model}，{framework}，设备 {device}；{versions}",
    ),
}
"""What each line says, with its facts in braces."""


class _Number(int):
    """A number in a sentence: `{n:layer/layers}` adds the noun, `{n:~is/are}` has only the word."""

    def __format__(self, spec: str) -> str:
        one, slash, many = spec.partition("/")
        if not slash:
            return super().__format__(spec)
        if one.startswith("~"):
            return one[1:] if self == 1 else many
        return counted(self, one, many)


def filled(text: str, facts: Mapping[str, object]) -> str:
    """Fill facts into a sentence; nouns and verbs beside a number follow it."""
    return text.format(
        **{
            name: _Number(value) if isinstance(value, int) else value
            for name, value in facts.items()
        }
    )
