"""Settings of layers and optimizers in Chinese, and what a difference in one does."""

from __future__ import annotations

TERMS = {
    "epsilon": "epsilon（防除零常数）",
    "affine": "仿射参数",
    "norms": "归一化的位置",
    "statistics": "统计量",
    "statistics momentum": "滑动统计量的动量",
    "running variance": "滑动方差",
    "dropout": "dropout 概率",
    "attention dropout": "注意力 dropout 概率",
    "drop path": "drop path 概率",
    "dropout mode": "dropout 模式",
    "padding row": "填充行",
    "padded cells": "边缘填充的格子",
    "activation": "激活函数",
    "slope": "负半轴斜率",
    "threshold": "阈值",
    "lower bound": "下界",
    "upper bound": "上界",
    "default learning rate": "默认学习率",
    "default momentum": "默认动量",
    "default smoothing": "默认平滑系数",
    "default epsilon": "默认 epsilon",
    "default weight decay": "默认权重衰减",
    "update rule": "更新公式",
    "unbiased": "无偏",
    "biased": "有偏",
    "zeros": "按零读取",
    "as it is": "按原值读取",
    "as stored": "按原值读取",
    "running": "滑动统计量",
    "of the batch": "当前批的统计量",
    "cumulative": "累积平均",
    "of the dtype": "由数据类型决定",
    "before": "子层之前",
    "after": "子层之后",
    "counted": "计入",
    "left out": "不计入",
    "None": "无",
    "SGD with momentum": "带动量的 SGD",
    "epsilon under the root": "epsilon 在根号内",
    "epsilon beside the root": "epsilon 在根号外",
    "epsilon added to the largest gradient so far": "epsilon 加在历史最大梯度上",
    "epsilon added to the new gradient": "epsilon 加在新梯度上",
    "changes every normalised value, most where the variance is small": (
        "所有归一化后的数值都会改变，方差小处变化最大"
    ),
    "a scale and shift train on one side only": "只有一边训练缩放和平移参数",
    "norms stand before a layer's sublayers in one, after them in the other": (
        "一边的归一化在子层之前，另一边在子层之后"
    ),
    "inference normalises by running statistics on one side only": (
        "推理时只有一边使用滑动统计量归一化"
    ),
    "running statistics follow the batches at another rate: training agrees, inference drifts "
    "apart": "滑动统计量的更新速度不同：训练一致，推理逐渐偏离",
    "running variances differ by n/(n-1) for n values per channel; corrected for in this check": (
        "每通道 n 个数值时滑动方差相差 n/(n-1) 倍；本检查已扣除"
    ),
    "another share of values is dropped while training; random, so off in this check": (
        "训练时丢弃的比例不同；因为是随机的，本检查中已关闭"
    ),
    "another share of attention is dropped while training; random, so off in this check": (
        "训练时丢弃的注意力比例不同；因为是随机的，本检查中已关闭"
    ),
    "another share of branches is skipped while training; random, so off in this check": (
        "训练时跳过的分支比例不同；因为是随机的，本检查中已关闭"
    ),
    "values are scaled by 1-p in inference, or by 1/(1-p) in training: both outputs differ by that "
    "factor": "一种在推理时乘以 1-p，另一种在训练时除以 1-p：两种输出都相差这个倍数",
    "that row gets no gradient on one side": "该行只在一边没有梯度",
    "the row of padding_idx is read as it is, or as zeros whatever it holds: outputs differ unless "
    "it is zero": (
        "padding_idx 所指的行，一边按原值读取，一边一律按零读取：除非该行为零，否则输出不同"
    ),
    "a lookup rescales rows that are longer": "查表时会缩短过长的行",
    "the last, incomplete window is kept or dropped: shapes or border values differ": (
        "最后一个不完整的窗口保留或舍弃：形状或边缘数值不同"
    ),
    "averages at the border divide by another number of cells": "边缘处求平均时除以的格子数不同",
    "borders are filled with other values": "边缘填充的数值不同",
    "another function: outputs and gradients differ everywhere": "函数不同：输出和梯度处处不同",
    "the same function with another negative slope": "同一函数，负半轴斜率不同",
    "the same function with another constant": "同一函数，常数不同",
    "the same function, linear from another value on": "同一函数，从另一个值起为线性",
    "the same function, cut off at another value": "同一函数，截断值不同",
    "steps of another size where none is given": "未指定学习率时步长不同",
    "momentum on one side only where none is given": "未指定动量时只有一边带动量",
    "squared gradients are averaged over another time where nothing is given": (
        "未指定时平方梯度的平均时长不同"
    ),
    "small gradients take steps of another size where nothing is given": (
        "未指定时小梯度的步长不同"
    ),
    "weights shrink on one side only where nothing is given": "未指定时只有一边有权重衰减",
    "small gradients take steps of another size, even with one epsilon": (
        "即使 epsilon 相同，小梯度的步长也不同"
    ),
    # single words in sentences
    "frozen": "冻结",
    "trainable": "可训练",
    "registration": "注册顺序",
    "execution": "执行顺序",
    "no rule": "没有规则",
    "the inputs": "输入",
    "the model": "模型",
    "the output": "输出",
    "none": "无",
}
"""Words and whole sentences without a number or a name in them."""
