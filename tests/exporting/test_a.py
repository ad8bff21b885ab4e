import weitiao, json, time
def test_onnx(served_runs, tmp_path):
    for i,(n,run) in enumerate(served_runs.items()):
        t=time.time()
        rep=weitiao.export(run.path, output=tmp_path/n, format="onnx", int8=n in("reviews","tags","numbers"))
        print(n, time.time()-t, {k:rep[k] for k in ("seconds","worst","tolerance","same_predictions","compared","files","pairs")}, rep["int8"] and rep["int8"]["loss"])
    print((tmp_path/"reviews"/"README.md").read_text())
